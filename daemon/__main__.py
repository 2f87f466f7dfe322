"""``python -m pyrotome.daemon`` is the command ``pyrotome``."""

from .cli.app import main

main()
