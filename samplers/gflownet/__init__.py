"""Generative flow networks: policies that build objects of an environment, and how they learn."""
