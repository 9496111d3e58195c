"""What every floor shares: types, errors, random streams, atomic files, CPU threads."""
