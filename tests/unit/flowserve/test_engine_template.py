"""A model loaded once, and engines of processes that are forked from it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from flowserve import EngineConfig
from flowserve.engine_template import EngineTemplate, take_first_step
from flowserve.errors import CheckpointError, LoadingError

SCRIPT = """
import os, sys
from flowserve import EngineConfig, SamplingParams
from flowserve.engine_template import EngineTemplate, take_first_step

for expected in ("conversion", "host memory"):
    template = EngineTemplate(sys.argv[1], EngineConfig(num_threads=2))
    assert template.source.kind == expected, template.source
assert template.weights_bytes > 0
assert len(os.listdir("/proc/self/task")) == 1, "the template has more than one thread"
for child in range(2):
    pid = os.fork()
    if pid == 0:
        engine = template.engine()
        take_first_step(engine)
        assert not engine.has_work
        engine.add("a", [5] * 20, SamplingParams(temperature=0.0, max_tokens=4, ignore_eos=True))
        tokens = []
        while engine.has_work:
            tokens += [t for output in engine.step() for t in output.token_ids]
        print(tokens, flush=True)
        os._exit(0)
    assert os.waitpid(pid, 0)[1] == 0
"""


def test_engines_of_forked_processes(models: Callable[..., Path], tmp_path: Path) -> None:
    from flowserve.device.cpu_kernels.library import kernel_library

    kernel_library()
    cache = tmp_path / "cache"
    cache.mkdir()
    (cache / "kernels").symlink_to(Path(os.environ["FLOWSERVE_CACHE"]) / "kernels")
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(models("qwen3"))], capture_output=True, text=True, timeout=120,
        env={"PATH": "/usr/bin:/bin", "OPENBLAS_NUM_THREADS": "1", "FLOWSERVE_CACHE": str(cache)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    first, second = done.stdout.splitlines()
    assert first == second and len(first.split()) == 4


def test_a_first_step_that_fails_says_so(models: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    engine = EngineTemplate(models("qwen3"), EngineConfig(num_threads=1)).engine()

    def run(*arguments: Any) -> Any:
        raise RuntimeError("no kernel for this")

    monkeypatch.setattr(engine._worker._runner, "run", run)
    with pytest.raises(LoadingError, match="the first step failed: .*no kernel for this"):
        take_first_step(engine)
    assert not engine.has_work


def test_a_folder_that_cannot_be_loaded_keeps_its_error(tmp_path: Path, models: Callable[..., Path]) -> None:
    broken = tmp_path / "broken"
    broken.mkdir()
    for file in models("qwen3").iterdir():
        (broken / file.name).write_bytes(file.read_bytes())
    (broken / "model.safetensors").write_bytes(b"short")
    with pytest.raises(CheckpointError, match="model.safetensors"):
        EngineTemplate(broken, EngineConfig())


def test_an_engine_takes_no_more_kv_than_it_is_told_and_has_the_same_context(models: Callable[..., Path]) -> None:
    template = EngineTemplate(models("qwen3"), EngineConfig(num_threads=1))
    kv_bytes, least_bytes, _ = template.memory
    assert 0 < least_bytes < kv_bytes
    for told, expected in ((0, kv_bytes), (kv_bytes + 1, kv_bytes), (least_bytes, least_bytes)):
        engine = template.engine(told)
        assert (engine.setup.kv_bytes, engine.setup.max_model_len) == (expected, template.engine().setup.max_model_len)
        take_first_step(engine)
    between = template.engine((kv_bytes + least_bytes) // 2)
    assert least_bytes < between.setup.kv_bytes <= (kv_bytes + least_bytes) // 2
    with pytest.raises(LoadingError, match="MiB are needed for the KV of one sequence, there are"):
        template.engine(least_bytes - 1)


def test_what_was_measured_bounds_what_an_engine_takes_of_its_own(
    models: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from flowserve import kv_profile
    from flowserve.memory import anonymous_bytes
    from flowserve.model_parts import load_with_tokenizer

    monkeypatch.setenv("FLOWSERVE_CACHE", str(tmp_path))
    config = EngineConfig(num_threads=1, cpu_backend="extension", memory_bytes=64 << 30)
    loaded, tokenizer = load_with_tokenizer(models("qwen3"), config)
    assert kv_profile.private_bytes(loaded, config) == 0, "nothing was measured yet"
    monkeypatch.setattr(kv_profile, "has_one_thread", lambda: False)
    monkeypatch.setattr(kv_profile, "run_largest_step", lambda *of: 32 << 30)
    kv_profile.with_kv_budget(loaded, tokenizer, config)
    taken_bytes = (32 << 30) - kv_profile.private_bytes(loaded, config)
    assert abs(taken_bytes - anonymous_bytes() - loaded.device.weights_bytes(loaded.weights)) < 64 << 20
