"""The version of what is installed."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version

try:
    __version__ = version("deepserve")
except PackageNotFoundError:  # run from a folder that nobody installed
    __version__ = "0"
