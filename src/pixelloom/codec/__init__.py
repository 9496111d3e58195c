"""Lossless compression: integer copies of models, a range coder, and ``.pxl`` files."""
