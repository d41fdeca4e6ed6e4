"""Langevin kernels."""
