"""Building blocks that methods share: sizes, layers, graph capture. Needs torch only."""
