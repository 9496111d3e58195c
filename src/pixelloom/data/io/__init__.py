"""Reading, scanning, caching and downloading of image files and arrays."""
