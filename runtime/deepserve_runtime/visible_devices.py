"""What a pod holds of the host's devices is all that the libraries in it see."""

from __future__ import annotations

import os
from collections.abc import Sequence

from deepserve.protocol.specs import VISIBLE_DEVICES


def show_devices(kind: str, ids: Sequence[str]) -> None:
    """Before torch or the user's code looks at them; a kind of which the pod holds none is hidden.

    A pod whose function names no accelerator (`kind` is empty) sees what it would see without DeepServe.
    """
    if kind:
        for each, variable in VISIBLE_DEVICES.items():
            os.environ[variable] = ",".join(ids) if each == kind else ""
