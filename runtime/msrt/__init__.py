"""msrt: AI on a tree of machines. This docstring is the map of the house."""
