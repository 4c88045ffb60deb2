"""Names of the figures of a test set, known without loading what takes them."""

from siamese_diffusion.segmentation.pranet_metrics import FIGURES

COUNTS = ("count", "healthy")
"""Images of a set, and those of them without a lesion."""
HEALTHY = ("specificity", "healthy_area")
"""Of healthy images: the share in which nothing is marked, and the mean share of the image that is."""
METRICS = ("mDice", "mIoU", *FIGURES, *HEALTHY)
"""What a study's table may show."""
