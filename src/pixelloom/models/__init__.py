"""Trained models of each family, saved as model folders, and their registry."""
