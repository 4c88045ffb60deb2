"""The diffusion room: backbone, ControlNet with Dense Hint Input, the siamese objective, training and sampling."""
