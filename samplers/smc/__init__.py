"""Weighted populations."""
