"""Steps in torch run while later layers are on their way, and say so where these do not come. Nothing is timed."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.numpy import load_file, save_file

from flowserve import EngineConfig
from flowserve.engine import Engine
from flowserve.engine_template import EngineTemplate
from flowserve.errors import CheckpointError, LoadingError
from flowserve.models.decoder import DecoderModel
from flowserve.models.decoder_arrival import DecoderArrival
from flowserve.models.step_order import StepOrder
from flowserve.outputs import SequenceOutput
from tests.tiny_models import make_model
from tests.unit.flowserve.arriving import WAIT_S, Gate, run, tokens_of, wait_until_computed

CHUNK_BYTES = 4096


class Gated(StepOrder):
    def __init__(self, model: DecoderModel) -> None:
        super().__init__(model.plan, CHUNK_BYTES)
        self.gate = Gate()

    def read_into(self, offset: int, buffer: memoryview) -> None:
        self.gate.let_pass(self.path, offset, len(buffer))
        super().read_into(offset, buffer)


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of its own, which counts as large and not in memory. A layer's tensors do not lie side by side."""
    monkeypatch.setattr("flowserve.loading.host_copy._SMALL_BYTES", 1)
    monkeypatch.setattr("flowserve.loading.host_copy.resident_share", lambda path: 0.1)
    return make_model(tmp_path / "model", "qwen3", num_hidden_layers=11)


@pytest.fixture
def gates(monkeypatch: pytest.MonkeyPatch) -> list[Gated]:
    """One for each engine that brings weights, none of them open."""
    made: list[Gated] = []

    def of_checkpoint(model: DecoderModel) -> DecoderArrival:
        made.append(Gated(model))
        return DecoderArrival(model, made[-1])

    monkeypatch.setattr(DecoderArrival, "of_checkpoint", of_checkpoint)
    return made


def options(**more: Any) -> EngineConfig:
    return EngineConfig(num_threads=1, cpu_backend="torch", overlap=False, **more)


@pytest.mark.parametrize(
    "more", [{}, {"dtype": "bfloat16"}, {"quantization": "int8"}, {"quantization": "int4", "dtype": "bfloat16"}]
)
def test_a_step_computes_each_layer_when_it_is_there(model: Path, gates: list[Gated], more: dict[str, str]) -> None:
    whole = Engine.from_folder(model, options(overlap_load=False, **more))
    expected = tokens_of(run(whole))
    assert gates == [] and not whole.is_arriving
    each = Engine.from_folder(model, options(**more))
    num_layers = each.model_config.num_layers
    [file] = gates
    assert each.is_arriving and file.size_bytes < (model / "model.safetensors").stat().st_size
    outputs: list[SequenceOutput] = []
    thread = threading.Thread(target=lambda: outputs.extend(run(each)))
    thread.start()
    for layer in range(num_layers):
        file.gate.open(file.ends[layer + 1])
        assert wait_until_computed(each, layer) == [number <= layer for number in range(num_layers)]
        assert thread.is_alive() and outputs == [] and each.is_arriving and each.read_s == 0.0
    file.gate.open(file.size_bytes)
    thread.join(WAIT_S)
    assert tokens_of(outputs) == expected
    assert not each.is_arriving and each.loading_error is None and each.read_s > 0.0
    assert tokens_of(run(each)) == expected, "steps behind it wait for nothing"
    each.close()


def test_weights_that_do_not_come_end_all_sequences(model: Path, gates: list[Gated]) -> None:
    each = Engine.from_folder(model, options())
    [file] = gates
    file.gate.open(file.ends[3])
    outputs: list[SequenceOutput] = []
    thread = threading.Thread(target=lambda: outputs.extend(run(each)))
    thread.start()
    file.gate.break_down()
    thread.join(WAIT_S)
    [output] = outputs
    assert output.error is not None and "Input/output error" in output.error and output.token_ids == ()
    assert isinstance(each.loading_error, LoadingError)
    [again] = run(each)
    assert again.error is not None and "Input/output error" in again.error
    each.close()
    assert run(Engine.from_folder(model, options(overlap_load=False)))[0].error is None, "another one is not touched"


def test_a_file_that_is_cut_while_it_is_read_ends_no_process(model: Path, gates: list[Gated]) -> None:
    """The pages behind its end cannot be had: a touch would be a signal."""
    each = Engine.from_folder(model, options())
    [file] = gates
    os.truncate(model / "model.safetensors", 1 << 14)
    file.gate.open(file.size_bytes)
    [output] = run(each)
    assert output.error is not None and "model.safetensors: cannot be read at byte" in output.error
    each.close()


def test_a_layer_that_holds_nan_is_not_computed_with(model: Path) -> None:
    tensors = load_file(model / "model.safetensors")
    name = "model.layers.10.mlp.down_proj.weight"
    tensors[name][3, 4] = float("nan")
    save_file(tensors, model / "model.safetensors")
    with pytest.raises(CheckpointError, match="NaN"):
        Engine.from_folder(model, options(overlap_load=False))
    each = Engine.from_folder(model, options())
    [output] = run(each)
    assert output.error is not None and f"tensor '{name}' holds NaN or infinity in row 3" in output.error
    assert isinstance(each.loading_error, LoadingError)
    each.close()


def test_an_engine_that_is_closed_while_its_weights_come_leaves_no_thread(model: Path, gates: list[Gated]) -> None:
    before = set(threading.enumerate())
    each = Engine.from_folder(model, options())
    assert set(threading.enumerate()) - before
    gates[0].gate.open(4 * CHUNK_BYTES)
    closing = threading.Thread(target=each.close)
    closing.start()
    gates[0].gate.break_down()  # a read that was begun is waited for
    closing.join(WAIT_S)
    assert set(threading.enumerate()) <= before


def test_engines_of_a_template_build_what_it_has_not(
    model: Path, gates: list[Gated], monkeypatch: pytest.MonkeyPatch
) -> None:
    template = EngineTemplate(model, options())
    assert gates == [], "a template has one thread"
    template.settle()
    first, second = template.engine(), template.engine()
    assert first.is_arriving and second.is_arriving, "what lies on a disk is not waited for in a template"
    for file in gates:
        file.gate.open(file.size_bytes)
    assert tokens_of(run(first)) == tokens_of(run(second))
    assert not template.engine().is_arriving


def test_a_template_settles_when_the_files_are_in_memory(
    model: Path, gates: list[Gated], monkeypatch: pytest.MonkeyPatch
) -> None:
    template = EngineTemplate(model, options())
    monkeypatch.setattr("flowserve.loading.host_copy.resident_share", lambda path: 1.0)
    template.settle()
    each = template.engine()
    assert gates == [] and not each.is_arriving
    assert tokens_of(run(each)) == tokens_of(run(Engine.from_folder(model, options(overlap_load=False))))


def test_a_sleeping_engine_brings_its_weights_again(model: Path, gates: list[Gated]) -> None:
    each = Engine.from_folder(model, options())
    gates[0].gate.open(gates[0].size_bytes)
    expected = tokens_of(run(each))
    each.sleep(2)
    each.wake()
    assert each.is_arriving
    gates[1].gate.open(gates[1].size_bytes)
    assert tokens_of(run(each)) == expected


def test_parts_are_read_in_the_order_of_a_step(models: Callable[..., Path], tmp_path: Path) -> None:
    from flowserve.models.loader import load_model

    plan = load_model(models("llama"), options()).plan
    order = StepOrder(plan, CHUNK_BYTES)
    assert len(order.ends) == plan.config.num_layers + 2
    assert order.ends[-1] == order.size_bytes == sum(chunk.size for chunk in order.chunks)
    read = b"".join(bytes(order.room(chunk.offset, chunk.size)) for chunk in order.chunks)
    with torch.inference_mode():
        stored = [part.tensor.rows(part.start, part.end) for each in plan.parameters() for part in each.parts]
    assert read == b"".join(tensor.contiguous().view(torch.uint8).numpy().tobytes() for tensor in stored)
