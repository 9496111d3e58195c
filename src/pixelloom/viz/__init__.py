"""Visualization: grids, training curves, receptive fields, attention maps, nearest neighbors, explained predictions."""
