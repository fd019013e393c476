"""One file per method; the folder is the registry. Each file sets `DETECTOR`."""
