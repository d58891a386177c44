"""Steps run while later layers are still on their way, and say so where these do not come. Nothing here is timed."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from flowserve import EngineConfig
from flowserve.device.cpu_kernels import runner as runner_module
from flowserve.device.cpu_kernels import weight_arrival
from flowserve.device.cpu_kernels.weight_arrival import WeightArrival
from flowserve.engine import Engine
from flowserve.engine_template import EngineTemplate
from flowserve.errors import LoadingError
from flowserve.loading.mapped_file import MappedFile
from flowserve.outputs import SequenceOutput
from tests.unit.flowserve.arriving import WAIT_S, Gate, run, tokens_of, wait_until_computed


class Gated(MappedFile):
    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.gate = Gate()

    def read_into(self, offset: int, buffer: memoryview) -> None:
        self.gate.let_pass(self.path, offset, len(buffer))
        super().read_into(offset, buffer)


@pytest.fixture
def model(models: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of its own, whose converted weights exist and count as large and not in memory."""
    from flowserve.device.cpu_kernels.library import kernel_library

    kernel_library()
    monkeypatch.setenv("FLOWSERVE_CACHE", str(tmp_path / "cache"))
    folder = Path(shutil.copytree(models("qwen3"), tmp_path / "model"))
    engine(folder).close()
    monkeypatch.setattr("flowserve.loading.host_copy._SMALL_BYTES", 1)
    for module in ("loading.host_copy", "device.cpu_kernels.weight_file"):
        monkeypatch.setattr(f"flowserve.{module}.resident_share", lambda path: 0.1)
    monkeypatch.setattr(weight_arrival, "CACHED_CHUNK_BYTES", 4096)
    return folder


@pytest.fixture
def gates(monkeypatch: pytest.MonkeyPatch) -> list[Gated]:
    """One for each engine that brings weights, none of them open."""
    made: list[Gated] = []

    def of_cache(file: weight_arrival.WeightFile, note: Callable[[int], None]) -> WeightArrival:
        assert file.path is not None
        made.append(Gated(file.path))
        return WeightArrival(file, note, made[-1], made[-1])

    monkeypatch.setattr(runner_module.WeightArrival, "of_cache", of_cache)
    return made


def engine(folder: Path, threads: int = 1, **options: object) -> Engine:
    config = EngineConfig(num_threads=threads, cpu_backend="extension", overlap=False, **options)  # type: ignore[arg-type]
    return Engine.from_folder(folder, config)


@pytest.mark.parametrize("threads", [1, 3])
def test_a_step_computes_each_layer_when_it_is_there(model: Path, gates: list[Gated], threads: int) -> None:
    expected = tokens_of(run(engine(model, overlap_load=False)))
    assert gates == []
    each = engine(model, threads)
    num_layers = each.model_config.num_layers
    [file] = gates
    assert each.is_arriving and each.read_s == 0.0 and num_layers > 1
    parts = each._hold.runner._weights.file.parts  # type: ignore[attr-defined]
    outputs: list[SequenceOutput] = []
    thread = threading.Thread(target=lambda: outputs.extend(run(each)))
    thread.start()
    for layer in range(num_layers):
        file.gate.open(max(entry.end for entry in parts[layer + 1]))
        assert wait_until_computed(each, layer) == [number <= layer for number in range(num_layers)]
        assert thread.is_alive() and outputs == []
    file.gate.open(file.size_bytes)
    thread.join(WAIT_S)
    assert tokens_of(outputs) == expected
    each._hold.runner._arrival._thread.join(WAIT_S)  # type: ignore[attr-defined]
    assert not each.is_arriving and each.loading_error is None and each.read_s > 0.0
    assert tokens_of(run(each)) == expected, "steps behind it wait for nothing"
    each.close()


@pytest.mark.parametrize("threads", [1, 3])
def test_weights_that_do_not_come_end_all_sequences(model: Path, gates: list[Gated], threads: int) -> None:
    each = engine(model, threads)
    [file] = gates
    parts = each._hold.runner._weights.file.parts  # type: ignore[attr-defined]
    file.gate.open(max(entry.end for entry in parts[1]))
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
    assert run(engine(model, overlap_load=False))[0].error is None, "another engine is not touched"


def test_a_part_that_is_damaged_is_not_computed_with(model: Path, tmp_path: Path) -> None:
    [path] = (tmp_path / "cache" / "weights").rglob("*.flat")
    whole = path.read_bytes()
    each = engine(model, overlap_load=False)
    last = max(entry.offset for entry in each._hold.runner._weights.file.parts[-2])  # type: ignore[attr-defined]
    each.close()
    path.write_bytes(whole[:last] + bytes(len(whole) - last))
    each = engine(model)
    [output] = run(each)
    assert output.error is not None and "is damaged; it is made anew at the next start" in output.error
    assert not path.exists()
    assert run(engine(model))[0].error is None
    assert path.read_bytes() == whole


def test_an_engine_that_is_closed_while_its_weights_come_leaves_no_thread(model: Path, gates: list[Gated]) -> None:
    before = set(threading.enumerate())
    each = engine(model)
    assert set(threading.enumerate()) - before
    gates[0].gate.open(4096)
    closing = threading.Thread(target=each.close)
    closing.start()
    gates[0].gate.break_down()  # a read that was begun is waited for
    closing.join(WAIT_S)
    assert set(threading.enumerate()) <= before


def test_engines_of_a_template_bring_what_it_has_only_mapped(model: Path, gates: list[Gated]) -> None:
    template = EngineTemplate(model, EngineConfig(num_threads=1, cpu_backend="extension", overlap=False))
    assert template.source.kind == "file" and gates == [], "a template has one thread"
    first = template.engine()
    gates[0].gate.open(gates[0].size_bytes)
    expected = tokens_of(run(first))
    first._hold.runner._arrival._thread.join(WAIT_S)  # type: ignore[attr-defined]
    second = template.engine()
    assert len(gates) == 1 and not second.is_arriving, "it is there by now"
    assert tokens_of(run(second)) == expected


def test_weights_whose_file_is_gone_are_read_from_the_mapping(model: Path, tmp_path: Path) -> None:
    template = EngineTemplate(model, EngineConfig(num_threads=1, cpu_backend="extension"))
    [path] = (tmp_path / "cache" / "weights").rglob("*.flat")
    assert template.changed() == ""
    path.unlink()
    assert "converted weights of" in template.changed(), "another template maps what is there by then"
    each = template.engine()
    assert not each.is_arriving and run(each)[0].error is None
