"""`python -m siamese_diffusion`, and `accelerate launch -m siamese_diffusion`."""

from siamese_diffusion.cli import main

main()
