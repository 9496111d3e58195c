"""Types, errors, random streams, atomic files and CPU threads, shared by all other packages."""
