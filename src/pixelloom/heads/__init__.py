"""Heads: distributions over the levels of a pixel, from the outputs of a pixel network."""
