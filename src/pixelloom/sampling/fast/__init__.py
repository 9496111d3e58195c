"""The fast sampler: every feature of every pixel computed once."""
