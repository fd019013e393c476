"""Kinds of sources: where images come from, one kind per file."""
