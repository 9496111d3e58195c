"""Layers: convolutions, attention and recurrences over pixels, norms, conditioning, and blocks of them."""
