"""Files and folders to integer levels: reading, scanning, caching, downloading."""
