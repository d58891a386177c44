"""How many bytes the weights of a model's checkpoint have, before anybody has loaded them."""

from __future__ import annotations

import os

from deepserve.protocol.specs import FunctionSpec

WEIGHTS_SUFFIX = ".safetensors"


def checkpoint_bytes(spec: FunctionSpec) -> int:
    """Of the weights files in a model's folder; 0 for what is no model, a hub id, and a folder that cannot be read."""
    if spec.kind != "model" or spec.model is None or not os.path.isabs(spec.model.source):
        return 0
    try:
        with os.scandir(spec.model.source) as files:
            return sum(file.stat().st_size for file in files if file.name.endswith(WEIGHTS_SUFFIX))
    except OSError:  # its first executor says what is wrong with it
        return 0
