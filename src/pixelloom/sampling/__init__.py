"""Sampling: the plain loop, the reference of every other sampler; the fast sampler; latent vectors of GANs."""
