"""The named data sets: the folder is the registry.

A set `fashion-mnist` is one file, `fashion_mnist.py`, with `DATASET = ...`, a
`amatune.data.dataset.Dataset` of that name. It is listed and opened from then on. What it is made
of is imported when it is opened: modules of sets are imported to list them.
"""
