"""Where FlowServe keeps what it can make again: compiled kernels, packed weights, measurements of this machine."""

from __future__ import annotations

import os
from pathlib import Path


def cache_folder() -> Path:
    """$FLOWSERVE_CACHE, else flowserve in the user's cache folder. Not created here."""
    named = os.environ.get("FLOWSERVE_CACHE")
    if named:
        return Path(named)
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "flowserve"
