"""The images of one view: drift between its frames, their sum, and the background under them.

The public names stand in ``__init__.pyi``; each is imported when it is first used.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
