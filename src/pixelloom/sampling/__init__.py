"""Drawing images: the plain loop, the oracle of every other sampler."""
