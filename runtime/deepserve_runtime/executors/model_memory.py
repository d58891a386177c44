"""Whether a model's weights fit into this host at all, told before they are read."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from deepserve.protocol.specs import FunctionSpec
from deepserve_runtime import sdk

_SHARE = {"int8": 0.25, "int4": 0.125}
"""What quantised weights take of the file's bytes at least: of float32 ones."""
CGROUP_LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")


def check_fits_into_memory(folder: Path, spec: FunctionSpec) -> None:
    """A lower bound, from the sizes of the files: KV cache and working memory come on top. Raises ModelLoadError."""
    assert spec.model is not None
    file_bytes = sum(file.stat().st_size for file in folder.glob("*.safetensors"))
    needed = int(file_bytes * _SHARE.get(spec.model.quantization or "", 1.0))
    has, whose = host_memory_bytes(), "this host has"
    if 0 < (limit := spec.resources.memory_mib << 20) < has:
        has, whose = limit, "a pod may have"
    if needed > has:
        text = f"its weights take {needed / 2**30:.1f} GiB at least, {whose} {has / 2**30:.1f} GiB of memory"
        raise sdk.errors.ModelLoadError(f"model {spec.model.name!r} does not fit: {text}")


def host_memory_bytes(limit_files: Iterable[str] = CGROUP_LIMITS) -> int:
    """Of the machine, or of the container that this process runs in."""
    has = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    for file in limit_files:
        try:
            text = Path(file).read_text().strip()
        except OSError:
            continue
        if text.isdecimal():
            has = min(has, int(text))
    return has
