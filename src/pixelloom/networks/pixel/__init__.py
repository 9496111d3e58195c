"""Networks of pixel models, one file a paper."""
