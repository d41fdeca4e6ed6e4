"""Masked diffusion: sequences of tokens that are revealed place by place."""
