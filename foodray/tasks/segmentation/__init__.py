"""The segmentation family: which pixels of a photo are which food."""
