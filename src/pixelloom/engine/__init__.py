"""Training: one loop for every family, and the files, schedules and signals around it.

Nothing is imported here, so that reading a configuration or a model does not load Lightning:
``from pixelloom.engine.loop import fit``, ``from pixelloom.engine.fabric import make_fabric``, ...
"""
