"""Generators and discriminators, one file a paper."""
