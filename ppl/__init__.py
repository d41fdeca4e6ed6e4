"""Define a target once, as an energy; run any sampler on it; judge the draws."""
