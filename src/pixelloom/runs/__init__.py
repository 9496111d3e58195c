"""Training runs: configuration, recipes, folders, and what each family makes of them."""
