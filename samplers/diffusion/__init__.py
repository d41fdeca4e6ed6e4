"""Diffusion and flow priors: noise paths, solvers of their reverse equations, training."""
