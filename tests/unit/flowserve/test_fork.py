"""A template process loads a model and forks; the child, with more threads, must not hang."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

SCRIPT = """
import os, sys
from pathlib import Path
from flowserve import Engine, EngineConfig, SamplingParams
from flowserve.models.loader import load_model
from flowserve.tokenizer import Tokenizer
import torch

folder = Path(sys.argv[1])
loaded = load_model(folder, EngineConfig())
tokenizer = Tokenizer.from_folder(folder)
assert len(os.listdir("/proc/self/task")) == 1, "the template has more than one thread"
for child in range(2):
    pid = os.fork()
    if pid == 0:
        engine = Engine(loaded, tokenizer, EngineConfig(num_threads=2))
        torch.ones(2_000_000).sqrt().sum()  # a parallel operation for certain
        engine.add("a", [5] * 100, SamplingParams(temperature=0.0, max_tokens=4))
        tokens = []
        while engine.has_work:
            tokens += [t for output in engine.step() for t in output.token_ids]
        print(tokens, len(os.listdir("/proc/self/task")), flush=True)
        os._exit(0)
    os.waitpid(pid, 0)
"""


def test_a_forked_child_computes_in_parallel(models: Callable[..., Path]) -> None:
    big = models("llama", hidden_size=512, intermediate_size=1024)  # joining its weights would start threads
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(big)], capture_output=True, text=True, timeout=60,
        env={"PATH": "/usr/bin:/bin", "OPENBLAS_NUM_THREADS": "1"},  # or importing numpy starts threads
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    first, second = done.stdout.splitlines()
    assert first == second and first.startswith("[")
    assert int(first.split()[-1]) > 1, "the child's operation was not parallel: this test shows nothing"
