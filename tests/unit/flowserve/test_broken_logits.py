"""A model whose logits are no numbers, or one of them: its sequences end with an error, whatever they ask for."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors.numpy import load_file, save_file

from flowserve import SamplingParams
from flowserve.sampling_params import StructuredOutputsParams
from flowserve.worker.sampler import NO_NUMBERS

BROKEN = 5
"""The token whose logit is NaN; those of all others are infinite."""


@pytest.fixture(scope="module")
def broken(models: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All its weights are finite. The last norm makes an infinity of the first of the hidden values, which all rows of
    the output projection multiply by a number above zero, and that of BROKEN by zero."""
    folder = Path(shutil.copytree(models(), tmp_path_factory.mktemp("broken") / "model"))
    tensors = load_file(folder / "model.safetensors")
    for name, values in tensors.items():
        if name.endswith(("o_proj.weight", "down_proj.weight")):
            values[:] = 0.0
    tensors["model.embed_tokens.weight"][:, 0] = 20.0
    tensors["model.norm.weight"][0] = 3e38
    tensors["lm_head.weight"][:, 0] = 0.1
    tensors["lm_head.weight"][BROKEN, 0] = 0.0
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


@pytest.mark.parametrize("backend", ["extension", "torch"])
@pytest.mark.parametrize(
    "params",
    [
        {"temperature": 0.0},
        {"temperature": 0.0, "logprobs": 1},
        {"temperature": 1.0, "seed": 1},
        {"temperature": 0.0, "structured_outputs": StructuredOutputsParams(choice=["a"])},
    ],
)
def test_one_logit_that_is_no_number_is_an_error(
    engine: Callable[..., Any], broken: Path, backend: str, params: dict[str, Any]
) -> None:
    each = engine(broken, cpu_backend=backend)
    each.add("a", [7, 8, 9], SamplingParams(max_tokens=4, **params))
    (output,) = each.step()
    assert (output.finish_reason, output.error, output.is_request_fault) == ("abort", NO_NUMBERS, False)


@pytest.mark.parametrize("backend", ["extension", "torch"])
def test_what_the_model_computes_there(broken: Path, backend: str) -> None:
    """Else the test above would test nothing."""
    import torch

    from flowserve import EngineConfig
    from flowserve.models.loader import load_model
    from flowserve.scheduling.batch import Batch, ScheduledSequence

    config = EngineConfig(num_threads=1, cpu_backend=backend)
    loaded = load_model(broken, config)
    layout = loaded.device.kv_layout(loaded, 4, 8, config)
    runner = loaded.device.runner(loaded, layout, 32, config)
    with torch.inference_mode():
        step = runner.run(Batch((ScheduledSequence("a", 0, 3, [0], 1, 0, 0),)), {"a": [7, 8, 9]})
    is_nan = step.values.isnan()[0].tolist()
    assert [token_id for token_id, nan in enumerate(is_nan) if nan] == [BROKEN]
    assert step.best in (None, [-1])
    runner.close()
