"""Ablations: a file that describes a table becomes cells, groups of cells that train as one, and run folders."""
