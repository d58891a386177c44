"""The bytes of a model: past the page cache by one reader, by our loader, and through safetensors into torch."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

from first_token import evict, packed, read
from meeting import tell

from flowserve.bench.shapes import SHAPES, model_folder
from flowserve.loading.direct_file import DirectFile
from flowserve.loading.host_copy import HostCopy, bring, copied

CHUNK_BYTES = 16 << 20


def main() -> None:
    folder = model_folder(SHAPES[sys.argv[1]])
    flat = packed(folder)
    checkpoint = folder / "model.safetensors"
    found = []
    for work, prepare in (("file", evict), ("cached", read)):
        for who, path, load in (
            ("limit: one direct reader", flat, read_direct),
            ("DeepServe", flat, read_cached),
            ("DeepServe, direct", flat, lambda path: os.close(copied(path))),
            ("safetensors and torch", checkpoint, read_torch),
        ):
            if work == "cached" and path is flat and load is read_direct:
                continue
            prepare(path)
            rate = path.stat().st_size / timed(load, path) / 1e9
            found.append({"work": work, "who": who, "unit": "GB/s", "value": rate})
    tell(found)


def timed(load: Callable[[Path], None], path: Path) -> float:
    start_s = time.perf_counter()
    load(path)
    return time.perf_counter() - start_s


def read_direct(path: Path) -> None:
    """Chunk after chunk into the same memory."""
    file, room = DirectFile(path), HostCopy(CHUNK_BYTES).room(0, CHUNK_BYTES)
    for offset in range(0, file.size_bytes, CHUNK_BYTES):
        file.read_into(offset, room[: min(CHUNK_BYTES, file.size_bytes - offset)])
    file.close()


def read_cached(path: Path) -> None:
    """Into the page cache, from where it is mapped."""
    file = os.open(path, os.O_RDONLY)
    os.close(bring(path, file, is_direct=False)[0])


def read_torch(path: Path) -> None:
    """Each tensor in memory of its own, as `torch.load` makes it."""
    from safetensors.torch import load_file

    tensors = load_file(path)
    for name in tensors:
        tensors[name] = tensors[name].clone()


if __name__ == "__main__":
    main()
