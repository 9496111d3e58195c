"""Data sets: published files, synthetic images and image folders as uint8 levels in three disjoint splits."""
