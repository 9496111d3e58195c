"""Metrics: exact likelihood, distances between sets of images, memorization, accuracy by class."""
