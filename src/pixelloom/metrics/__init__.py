"""Figures that can be trusted: what was measured, on what, on how many."""
