"""Solvers of the reverse equations: each writes a table of rows and loops over nothing."""
