"""A state folder whose next controller knows that a model is asked now and then, in tests."""

from __future__ import annotations

import time
from pathlib import Path

import msgspec

import deepserve
from deepserve.protocol.specs import function_id
from deepserve_controller.core.preload_views import KnownModel
from deepserve_controller.service.demand_keeper import FILE, VERSION

GAPS_S = (29.0, 29.0)
"""After any use it is likely to be asked within the 30 s that are looked ahead, for as long as this."""


def state_that_expects(folder: Path, llm: deepserve.Model) -> str:
    """The folder's path, for `deepserve.init(state=...)`."""
    folder.mkdir(mode=0o700)
    known = KnownModel(function_id(llm.spec), idle_s=0.0, gaps_s=GAPS_S)
    kept = {"models": [known], "written_at": time.time(), "version": VERSION}
    (folder / FILE).write_bytes(msgspec.json.encode(kept))
    return str(folder)
