"""The version of amatune."""

__version__ = "0.1.0"
