"""Measures of how far draws may be trusted, one a file, and the verdict drawn from them."""
