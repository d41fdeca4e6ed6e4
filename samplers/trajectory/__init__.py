"""Learned paths to a target: one log-ratio of paths, its objectives, and the samplers on it."""
