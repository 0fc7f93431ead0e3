"""Data modules: shared image data with what is known about the images."""
