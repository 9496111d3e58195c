"""What users hold: a network with its head and data scaling, saved and loaded as one folder."""
