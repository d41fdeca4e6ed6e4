"""Steering the reverse chain of a diffusion prior: by rewards, twists, guidance and correctors."""
