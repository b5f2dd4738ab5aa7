"""Facades drawn from a seed: label maps of buildings, and pictures rendered from them.

A set to start with, after the CMP Facade Database (Tylecek and Sara, GCPR 2013) but drawn by
this program, so that it can be had without a download. `building.py` invents a building as a
list of parts, `looks.py` its colours, `textures.py` and `painters.py` how each part looks, and
`scene.py` puts them together and takes the picture.
"""

from .scene import PALETTE, draw_label, draw_pair

__all__ = ["PALETTE", "draw_label", "draw_pair"]
