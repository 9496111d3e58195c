"""Layers: what mixes pixels, and the units built from it."""
