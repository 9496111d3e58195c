"""Networks of pixel models, one file per paper."""
