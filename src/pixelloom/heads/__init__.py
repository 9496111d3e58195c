"""Distributions of a pixel's levels: what the outputs of a pixel network mean."""
