"""Handwritten digits, learned together: an ordinary Flower app."""
