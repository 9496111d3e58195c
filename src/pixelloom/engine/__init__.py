"""Training: one loop for all families, checkpoints, schedules, devices and signals.

This file imports nothing, so that reading a configuration or a model does not load Lightning:
``from pixelloom.engine.loop import fit``, ``from pixelloom.engine.fabric import make_fabric``, ...
"""
