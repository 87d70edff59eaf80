"""Handwritten digits, learned together with PyTorch: an ordinary Flower app."""
