"""The version, in the one place it is written: packaging reads it here without importing torch."""

__version__ = "0.2.0.dev0"
