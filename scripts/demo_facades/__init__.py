"""Facades drawn from a seed, after the CMP Facade Database (Tylecek and Sara, GCPR 2013)."""
