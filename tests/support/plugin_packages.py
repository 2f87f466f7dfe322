"""Packages of other people, installed as they would install them, into a folder of their own."""

from __future__ import annotations

import shutil
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import pytest


def can_build_here() -> bool:
    """Whether setuptools can make a wheel without pip fetching anything."""
    try:
        return tuple(int(n) for n in version("setuptools").split(".")[:2]) >= (70, 1)
    except PackageNotFoundError:
        return False


def install(package: Path, folder: Path) -> Path:
    """Install a package with pip, and nothing else; returns the folder for PYTHONPATH."""
    pytest.importorskip("pip")
    source = shutil.copytree(package, folder / "source")
    command = [sys.executable, "-m", "pip", "install", "--no-deps", "--quiet"]
    command += ["--disable-pip-version-check", "--target", str(folder / "site"), str(source)]
    if can_build_here():
        command += ["--no-build-isolation", "--no-index"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=150)
    if done.returncode and not can_build_here():
        pytest.skip("setuptools here is too old to build a package, and pip got no newer one")
    assert done.returncode == 0, done.stderr
    return folder / "site"
