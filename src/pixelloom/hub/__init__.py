"""The Hugging Face hub: names of repositories, downloads and uploads of a few named files, and errors in one line."""
