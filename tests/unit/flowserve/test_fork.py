"""A template process loads a model and forks; the child, with more threads, must not hang."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

SCRIPT = """
import os, sys
from pathlib import Path
from flowserve import Engine, EngineConfig, SamplingParams
from flowserve.models.loader import load_model
from flowserve.tokenizer import Tokenizer
import torch

folder = Path(sys.argv[1])
options = eval(sys.argv[2])
loaded = load_model(folder, EngineConfig(num_threads=1, **options))
tokenizer = Tokenizer.from_folder(folder)
assert len(os.listdir("/proc/self/task")) == 1, "the template has more than one thread"
for child in range(2):
    pid = os.fork()
    if pid == 0:
        engine = Engine(loaded, tokenizer, EngineConfig(num_threads=2, **options))
        torch.ones(2_000_000).sqrt().sum()  # a parallel operation for certain
        engine.add("a", [5] * 100, SamplingParams(temperature=0.0, max_tokens=4))
        tokens = []
        while engine.has_work:
            tokens += [t for output in engine.step() for t in output.token_ids]
        print(tokens, len(os.listdir("/proc/self/task")), flush=True)
        os._exit(0)
    os.waitpid(pid, 0)
"""


@pytest.mark.parametrize("options", [{}, {"cpu_backend": "torch", "quantization": "int8"}], ids=str)
def test_a_forked_child_computes_in_parallel(
    models: Callable[..., Path], tmp_path: Path, options: dict[str, Any]
) -> None:
    # Joining its weights would start threads, and so would measuring torch's kernels, for which it is large enough.
    big = models("llama", hidden_size=512, intermediate_size=3072)
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(big), repr(options)], capture_output=True, text=True, timeout=120,
        env={
            "PATH": "/usr/bin:/bin",
            "OPENBLAS_NUM_THREADS": "1",  # or importing numpy starts threads
            "OMP_WAIT_POLICY": "passive",  # two threads that spin take minutes on a busy machine
            "FLOWSERVE_CACHE": str(tmp_path) if options else os.environ["FLOWSERVE_CACHE"],
        },
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert ("kernel-choice" in os.listdir(tmp_path)) == bool(options)
    first, second = done.stdout.splitlines()
    assert first == second and first.startswith("[")
    assert int(first.split()[-1]) > 1, "the child's operation was not parallel: this test shows nothing"
