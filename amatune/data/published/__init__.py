"""What published data sets share: their files, downloads, archives and formats."""
