"""``python -m pyrotome.daemon`` is the command ``pyrotome``."""

from .cli import main

main()
