"""DeepServe, embedded: a model that nobody has loaded, from the request to its first token, and the memory's limit.

The second argument: warm (the engine's environment is there), cold (it is not), evicted (it is, the weights are not).
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from meeting import tell

import deepserve
from flowserve.bench.shapes import SHAPES, model_folder
from flowserve.tokenizer import Tokenizer

PROMPT_TOKENS = 16


def main() -> None:
    shape, how = SHAPES[sys.argv[1]], sys.argv[2]
    folder = model_folder(shape)
    flat = packed(folder)
    prompt = prompt_of(Tokenizer.from_folder(folder))
    if how != "cold":
        deepserve.Model("before", source=model_folder(SHAPES["toy"])).generate("a", max_tokens=1)
    (evict if how == "evicted" else read)(flat)
    llm = deepserve.Model(shape.name, source=folder)
    start_s = time.perf_counter()
    llm.generate(prompt, max_tokens=1, temperature=0)
    took_s = time.perf_counter() - start_s
    work = {"warm": "warm template", "cold": "no template", "evicted": "cold file"}[how]
    found = [{"work": work, "who": "DeepServe", "unit": "s", "value": took_s}]
    if how == "warm":
        limit_s = flat.stat().st_size / read_rate()
        found.append({"work": work, "who": "limit: reading memory", "unit": "s", "value": limit_s})
    if how == "cold":
        found.append({"work": work, "who": "limit: importing torch", "unit": "s", "value": import_s()})
    tell(found)


def packed(folder: Path) -> Path:
    """The flat file of its weights."""
    found = known(folder)
    assert found.endswith(".flat"), "this machine has no kernels of its own: weights are not packed"
    return Path(found)


def known(folder: Path) -> str:
    """What the first start of a model on a machine converts and measures is there, made now if need be, by another
    process: this one stays without the engine. Returns the path of the flat file; without our kernels there is none.
    """
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        from deepserve_runtime.executors.loaded_engine import engine_config
        from flowserve.config import EngineConfig
        from flowserve.engine_template import EngineTemplate
        from flowserve.models.loader import load_model

        EngineTemplate(folder, engine_config(deepserve.Model("hosted", source=folder).spec))
        loaded = load_model(folder, EngineConfig())
        os.write(writing, str(loaded.device.weights_path(loaded.weights) or "").encode())
        os._exit(0)
    os.close(writing)
    found = os.read(reading, 4096).decode()
    os.close(reading)
    os.waitpid(pid, 0)
    return found


def prompt_of(tokenizer: Tokenizer) -> str:
    text = "a"
    while len(tokenizer.encode(text)) < PROMPT_TOKENS:
        text += " b"
    return text


def read(path: Path) -> None:
    with path.open("rb", buffering=0) as file:
        while file.read(1 << 24):
            pass


def evict(path: Path) -> None:
    os.sync()
    with path.open("rb") as file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def import_s() -> float:
    """Of torch, by an interpreter that does nothing else."""
    code = "import time; start_s = time.perf_counter(); import torch; print(time.perf_counter() - start_s)"
    return float(subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout)


def read_rate() -> float:
    """Bytes a second, of all cores."""
    cores = len(os.sched_getaffinity(0))
    parts = [np.ones(1 << 25, dtype=np.int64) for _ in range(cores)]
    with ThreadPoolExecutor(cores) as pool:
        fastest_s = float("inf")
        for _ in range(4):
            start_s = time.perf_counter()
            list(pool.map(np.max, parts))
            fastest_s = min(fastest_s, time.perf_counter() - start_s)
    return sum(part.nbytes for part in parts) / fastest_s


if __name__ == "__main__":
    main()
