"""Inverse problems under a diffusion prior: posteriors of what was measured, one method a file."""
