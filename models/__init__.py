"""Targets with known facts: densities, programs, inverse problems, environments."""
