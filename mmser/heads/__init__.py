"""Heads: one torch module a file, behind one contract."""
