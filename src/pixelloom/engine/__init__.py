"""Training: one loop for every family, and the files, schedules and signals around it."""
