"""Lattice: pixel size and distortion of a scan, from pictures of a crystal that is known.

The public names stand in ``__init__.pyi``; each is imported when it is first used.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
