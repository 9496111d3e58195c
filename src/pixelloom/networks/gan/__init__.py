"""Generators and discriminators, one file per paper."""
