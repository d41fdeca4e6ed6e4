"""Synthetic densities with known facts: dimension, log Z, exact draws, modes. One family a file."""
