"""Random models of every architecture, in every way that an engine may compute them, against transformers.

A few configurations per architecture here; `make oracle` draws many more.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from tests.unit.flowserve.oracle import BACKENDS, EXAMPLES, Case, Oracle, RecordedEngine, cases, runs
from tests.unit.flowserve.running import ARCHITECTURES

SIZES = {
    "num_attention_heads": 6, "num_key_value_heads": 2, "hidden_size": 96, "intermediate_size": 40,
    "max_position_embeddings": 1024,
}  # fmt: skip
FIXED = {
    "llama": {"rope_scaling": {
        "rope_type": "llama3", "factor": 4.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
        "original_max_position_embeddings": 64,
    }},
    "mistral": {"sliding_window": 13},
    "phi3": {"partial_rotary_factor": 0.5, "sliding_window": 50},
    "qwen2": {"use_sliding_window": True, "sliding_window": 9, "max_window_layers": 1},
    "qwen3": {"head_dim": 24},
}  # fmt: skip

pytestmark = [
    pytest.mark.parametrize("backend", BACKENDS),
    pytest.mark.parametrize("architecture", ARCHITECTURES),
]


@pytest.fixture(scope="module")
def fixed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, Oracle]]:
    """A model of each architecture, with its oracle."""
    root = tmp_path_factory.mktemp("fixed")
    folders = {name: Case(name, SIZES | FIXED[name]).write(root / name) for name in ARCHITECTURES}
    return {name: (folder, Oracle(folder)) for name, folder in folders.items()}


def prompt_of(length: int, seed: int = 0) -> list[int]:
    return torch.randint(0, 400, (length,), generator=torch.Generator().manual_seed(1000 * seed + length)).tolist()


@settings(
    max_examples=EXAMPLES,
    derandomize=True,
    deadline=None,
    suppress_health_check=list(HealthCheck),
    phases=(Phase.generate,),  # a failing example says enough; making it smaller takes minutes
)
@given(data=st.data())
def test_random_configurations(architecture: str, backend: str, data: st.DataObject) -> None:
    case = data.draw(cases(architecture), "case")
    run = data.draw(runs(case), "run")
    with tempfile.TemporaryDirectory() as folder:
        oracle = Oracle(case.write(Path(folder)))
        engine = RecordedEngine(Path(folder), **BACKENDS[backend], **run.options)
        for index, prompt in enumerate(run.prompts):
            engine.add(str(index), prompt, run.max_tokens[index])
            for _ in range(run.arrivals[index]):
                engine.step()
        engine.run()
        engine.check(oracle)


def test_every_length_alone_and_together(
    architecture: str, backend: str, fixed: dict[str, tuple[Path, Oracle]]
) -> None:
    folder, oracle = fixed[architecture]
    lengths = [1, 2, 3, 15, 16, 17, 31, 32, 33, 100, 255, 256, 257, 511, 512, 513, 699, 700]
    alone = RecordedEngine(folder, enable_prefix_caching=False, **BACKENDS[backend])
    for length in lengths[:14]:
        alone.add(str(length), prompt_of(length), 3)
        alone.run()
    alone.check(oracle)
    together = RecordedEngine(folder, enable_prefix_caching=False, max_num_sequences=18, **BACKENDS[backend])
    for length in lengths:
        together.add(str(length), prompt_of(length), 6)
    together.run()
    together.check(oracle)


def test_chunks_cut_at_every_boundary(architecture: str, backend: str, fixed: dict[str, tuple[Path, Oracle]]) -> None:
    folder, oracle = fixed[architecture]
    prompt = prompt_of(26)
    for cut in range(1, 27):
        engine = RecordedEngine(folder, max_num_batched_tokens=cut, block_size=8, **BACKENDS[backend])
        engine.add("a", prompt, 2)
        engine.run()
        engine.check(oracle)


def test_prefix_hits_of_every_length(architecture: str, backend: str, fixed: dict[str, tuple[Path, Oracle]]) -> None:
    folder, oracle = fixed[architecture]
    engine, prompt = RecordedEngine(folder, block_size=4, **BACKENDS[backend]), prompt_of(48)
    engine.add("first", prompt, 4)
    engine.run()
    for kept in range(0, 49, 3):
        engine.add(str(kept), prompt[:kept] + prompt_of(9, seed=kept), 4)
    engine.run()
    engine.check(oracle)
    assert engine.engine.stats().prefix_hit_tokens >= sum(kept // 4 * 4 for kept in range(0, 49, 3)) - 4


def test_after_preemption(architecture: str, backend: str, fixed: dict[str, tuple[Path, Oracle]]) -> None:
    folder, oracle = fixed[architecture]
    options = {"num_kv_blocks": 20, "block_size": 8, "max_model_len": 160, "max_num_batched_tokens": 48}
    engine = RecordedEngine(folder, **options, **BACKENDS[backend])
    for index, length in enumerate((70, 30, 41, 5) * 3):
        engine.add(str(index), prompt_of(length, seed=index), 40)
    engine.run()
    if architecture != "mistral":  # whose small window bounds what a sequence holds: nobody has to give way
        assert engine.engine.stats().num_preemptions > 0
    engine.check(oracle)
