"""Names of the files of a model folder."""

WEIGHTS, CONFIG = "model.safetensors", "config.json"
