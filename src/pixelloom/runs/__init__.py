"""Training runs: configuration, recipes, run folders, the setup of each family, training and evaluation."""
