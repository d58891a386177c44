"""A model's options against its folder and the memory that there is, told before its weights are read."""

from __future__ import annotations

from pathlib import Path

import msgspec

from deepserve.protocol.specs import FunctionSpec, Resources
from deepserve_runtime import sdk
from deepserve_runtime.executors.flowserve_parts import (
    LeastMemory,
    check_model,
    has_all_weights,
    host_bytes,
    known_folder,
    local_folder,
    resident_bytes,
)
from deepserve_runtime.executors.loaded_engine import engine_config, loading


def check_definition(spec: FunctionSpec) -> bool:
    """Before a model is deployed, in a pod on the machine that is to run it: nothing is fetched for it.

    What this process takes, which has no torch, is the least that one with the model takes. Whether the model is there:
    one of the hub that has to be fetched passes. Raises ModelLoadError, InvalidModelOption.
    """
    assert spec.model is not None
    with loading(spec.model):
        folder = known_folder(spec.model.source)
    if folder is None:
        return False
    resources = Resources(memory_mib=spec.resources.memory_mib)  # which devices there are is the controller's to know
    return check_options(folder, msgspec.structs.replace(spec, resources=resources), resident_bytes())


def check_options(folder: Path, spec: FunctionSpec, process_bytes: int = 0) -> bool:
    """Whether all weights are there, of a model that may be fetched.

    process_bytes: of this process, where it is to hold the model. Raises ModelLoadError, InvalidModelOption.
    """
    assert spec.model is not None
    with loading(spec.model):
        is_whole = local_folder(spec.model.source) is not None or has_all_weights(folder)
        least = least_memory(folder, spec, process_bytes, is_whole)
    needed_bytes, has_bytes = process_bytes + least.weights_bytes, host_bytes()
    if needed_bytes > has_bytes:
        text = f"it takes {needed_bytes / 2**30:.1f} GiB at least, this host has {has_bytes / 2**30:.1f} GiB of memory"
        raise sdk.errors.ModelLoadError(f"model {spec.model.name!r} does not fit: {text}")
    return is_whole


def least_memory(folder: Path, spec: FunctionSpec, process_bytes: int = 0, has_weights: bool = True) -> LeastMemory:
    """See flowserve's check_model."""
    return check_model(folder, engine_config(spec), process_bytes=process_bytes, has_weights=has_weights)
