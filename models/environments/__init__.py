"""Spaces of objects that are built move by move, with a reward. One family a file."""
