"""Pictures: grids, curves, maps."""
