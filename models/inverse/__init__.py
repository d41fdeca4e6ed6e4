"""Inverse problems: an image or a signal seen through an operator, and what is known of it."""
