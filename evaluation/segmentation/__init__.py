"""Segmentation models trained on real and in-silico images, and how well they fit annotators' label maps."""
