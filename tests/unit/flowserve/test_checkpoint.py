"""Our own reader of safetensors: what it reads, what it reads it into, and every way a file can lie."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from flowserve.errors import CheckpointError
from flowserve.models.checkpoint import Checkpoint
from flowserve.models.parameter import Parameter, Part
from flowserve.models.safetensors_file import SafetensorsFile, StoredTensor

Header = dict[str, Any]


def write(path: Path, header: Header | bytes, data: bytes, length: int | None = None) -> Path:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes((len(text) if length is None else length).to_bytes(8, "little") + text + data)
    return path


def entry(start: int, end: int, shape: list[Any], dtype: str = "F32") -> Header:
    return {"dtype": dtype, "shape": shape, "data_offsets": [start, end]}


@pytest.mark.parametrize(
    "dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.int8, torch.bool]
)
def test_reads_what_the_reference_writes(dtype: torch.dtype, tmp_path: Path) -> None:
    tensors = {
        "matrix": torch.randn(7, 3).to(dtype),
        "vector": torch.randn(5).to(dtype),
        "scalar": torch.randn(()).to(dtype),
        "nothing": torch.zeros(0, 4, dtype=dtype),
    }
    save_file(tensors, tmp_path / "a.safetensors", metadata={"format": "pt"})
    stored = SafetensorsFile(tmp_path / "a.safetensors").tensors
    assert stored.keys() == tensors.keys()
    for name in ("matrix", "vector", "nothing"):
        assert torch.equal(stored[name].rows(0, tensors[name].shape[0]), tensors[name])
        assert (stored[name].dtype, stored[name].shape) == (dtype, tuple(tensors[name].shape))
    assert torch.equal(stored["matrix"].rows(2, 5), tensors["matrix"][2:5])


def test_a_tensor_that_is_not_aligned(tmp_path: Path) -> None:
    values = torch.randn(3, 2)
    header = {"byte": entry(0, 1, [1], "U8"), "odd": entry(1, 25, [3, 2])}
    file = SafetensorsFile(write(tmp_path / "a", header, b"\x07" + values.numpy().tobytes()))
    assert torch.equal(file.tensors["odd"].rows(1, 3), values[1:3])


LIES: dict[str, tuple[Header | bytes, bytes, int | None, str]] = {
    "empty": (b"", b"", None, "header is not readable"),
    "longer header than file": ({}, b"", 10**6, "length is given as 1000000 bytes.*truncated"),
    "absurd header length": ({}, b"", 2**63, "length is given as"),
    "no JSON": (b"{hello", b"", None, "header is not readable"),
    "no UTF-8": (b'{"\xff\xfe": 1}', b"", None, "header is not readable"),
    "deep JSON": (b"[" * 100_000, b"", None, "header is not readable"),
    "no object": (b"[1]", b"", None, "no JSON object"),
    "a name twice": (b'{"a": 1, "a": 2}', b"", None, "'a' is there twice"),
    "not a tensor": ({"a": 3}, b"", None, "tensor 'a'.*no dtype, shape and data_offsets"),
    "no offsets": ({"a": {"dtype": "F32", "shape": [1]}}, bytes(4), None, "tensor 'a'.*data_offsets"),
    "unknown dtype": ({"a": entry(0, 4, [1], "F7")}, bytes(4), None, "tensor 'a': dtype 'F7'"),
    "dtype of no name": ({"a": {**entry(0, 4, [1]), "dtype": []}}, bytes(4), None, r"tensor 'a': dtype \[\]"),
    "negative size": ({"a": entry(0, 4, [-1])}, bytes(4), None, r"tensor 'a': shape \[-1\]"),
    "size that is no number": ({"a": entry(0, 4, ["1"])}, bytes(4), None, "tensor 'a': shape"),
    "true as a size": ({"a": entry(0, 4, [True])}, bytes(4), None, "tensor 'a': shape"),
    "offsets reversed": ({"a": entry(4, 0, [1])}, bytes(4), None, r"tensor 'a': data_offsets \[4, 0\]"),
    "negative offset": ({"a": entry(-4, 0, [1])}, bytes(4), None, "tensor 'a': data_offsets"),
    "behind the end": ({"a": entry(0, 8, [2])}, bytes(4), None, "tensor 'a': ends at byte .* truncated"),
    "shape too large": ({"a": entry(0, 4, [2])}, bytes(4), None, "'a': shape .2,. of F32 takes 8 bytes.*give 4"),
    "shape beyond 64 bits": ({"a": entry(0, 4, [2**40, 2**40])}, bytes(4), None, "'a': shape .* takes"),
    "dtype too wide": ({"a": entry(0, 4, [2], "F64")}, bytes(4), None, "tensor 'a': shape .* takes 16 bytes"),
    "overlap": ({"a": entry(0, 8, [2]), "b": entry(4, 12, [2])}, bytes(12), None, "'a' and 'b' overlap"),
    "the same bytes": ({"a": entry(0, 4, [1]), "b": entry(0, 4, [1])}, bytes(4), None, "'a' and 'b' overlap"),
    "a gap": ({"a": entry(0, 4, [1]), "b": entry(8, 12, [1])}, bytes(12), None, "before tensor 'b' belong to no"),
    "a gap at the start": ({"a": entry(4, 8, [1])}, bytes(8), None, "fill .* bytes"),
    "more than the tensors": ({"a": entry(0, 4, [1])}, bytes(9), None, "tensors fill 4 of 9 bytes"),
}


@pytest.mark.parametrize("name", LIES)
def test_files_that_lie(name: str, tmp_path: Path) -> None:
    header, data, length, words = LIES[name]
    with pytest.raises(CheckpointError, match=words) as caught:
        SafetensorsFile(write(tmp_path / "model.safetensors", header, data, length))
    assert "model.safetensors" in str(caught.value)


def test_files_of_no_bytes_and_a_folder(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"")
    (tmp_path / "b").write_bytes(bytes(7))
    for name in ("a", "b", "missing", "."):
        with pytest.raises(CheckpointError):
            SafetensorsFile(tmp_path / name)


@settings(
    max_examples=100, derandomize=True, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
def test_damaged_files_read_nothing_else(data: st.DataObject, tmp_path: Path) -> None:
    """Whatever bytes change, a file is refused, or every tensor lies within it."""
    path = tmp_path / "model.safetensors"
    save_file({"a": torch.ones(3, 4), "b": torch.ones(5)}, path)
    content = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 3))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(content[: data.draw(st.integers(0, len(content)))] if data.draw(st.booleans()) else content)
    try:
        tensors = SafetensorsFile(path).tensors
    except CheckpointError as error:
        assert "model.safetensors" in str(error)
        return
    for tensor in tensors.values():
        assert tensor.offset + tensor.size_bytes <= len(content)
        if tensor.shape:
            assert tensor.rows(0, tensor.shape[0]).numel() * tensor.dtype.itemsize == tensor.size_bytes


# --- several files ------------------------------------------------------------------------------------------


def shards(folder: Path, weight_map: dict[str, str], **files: dict[str, torch.Tensor]) -> Path:
    for name, tensors in files.items():
        save_file(tensors, folder / f"{name}.safetensors")
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    return folder


def test_an_index_and_its_files(tmp_path: Path) -> None:
    one, two = torch.zeros(2), torch.ones(3)
    places = {"a": "x.safetensors", "b": "y.safetensors"}
    checkpoint = Checkpoint(shards(tmp_path, places, x={"a": one}, y={"b": two}))
    assert torch.equal(checkpoint.tensor("b", (3,)).rows(0, 3), two) and "a" in checkpoint and "c" not in checkpoint
    with pytest.raises(CheckpointError, match="tensor 'c' is missing"):
        checkpoint.tensor("c", (3,))
    with pytest.raises(CheckpointError, match=r"y.safetensors: tensor 'b' has shape \(3,\), .* asks for \(4,\)"):
        checkpoint.tensor("b", (4,))


@pytest.mark.parametrize(
    "weight_map, words",
    [
        ({"a": "x.safetensors", "b": "gone.safetensors"}, "names 'gone.safetensors', which is not in the folder"),
        ({"a": "x.safetensors", "c": "x.safetensors"}, "places tensor 'c' in 'x.safetensors', which does not hold it"),
        ({"a": "x.safetensors", "b": "z.safetensors"}, "tensor 'a' is in x.safetensors and in z.safetensors"),
        ({"a": 3}, "no weight_map"),
        ([], "no weight_map"),
        ({"a": "../x.safetensors"}, "'../x.safetensors', which is not in the folder"),
    ],
)
def test_an_index_that_lies(weight_map: Any, words: str, tmp_path: Path) -> None:
    (tmp_path / "m").mkdir()
    save_file({"a": torch.zeros(2)}, tmp_path / "x.safetensors")
    with pytest.raises(CheckpointError, match=words):
        Checkpoint(
            shards(tmp_path / "m", weight_map, x={"a": torch.zeros(2)}, z={"a": torch.ones(2), "b": torch.ones(1)})
        )


def test_tensors_that_are_no_weights(tmp_path: Path) -> None:
    save_file({"a": torch.zeros(2, dtype=torch.int8)}, tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match="tensor 'a' holds torch.int8, not weights"):
        Checkpoint(tmp_path).tensor("a", (2,))


# --- parameters ---------------------------------------------------------------------------------------------


def stored(folder: Path, **tensors: torch.Tensor) -> dict[str, StoredTensor]:
    save_file(tensors, folder / "model.safetensors")
    return SafetensorsFile(folder / "model.safetensors").tensors


def test_any_rows_of_joined_tensors(tmp_path: Path) -> None:
    a, b = torch.randn(5, 3), torch.randn(4, 3).bfloat16()
    tensors = stored(tmp_path, a=a, b=b)
    parts = (Part(tensors["a"], 1, 4), Part(tensors["b"], 0, 4), Part(tensors["a"], 4, 5))
    parameter, whole = Parameter("joined", (8, 3), parts), torch.cat((a[1:4], b.float(), a[4:]))
    assert parameter.stored_dtype is torch.float32 and parameter.num_elements == 24
    assert torch.equal(parameter.load(torch.float32), whole)
    for start in range(9):
        for end in range(start, 9):
            assert torch.equal(parameter.rows(start, end, torch.float32), whole[start:end])


def test_a_whole_tensor_is_not_copied_and_rows_leave_no_memory(tmp_path: Path) -> None:
    tensors = stored(tmp_path, a=torch.ones(4096, 4096))
    parameter = Parameter("a", (4096, 4096), (Part(tensors["a"], 0, 4096),))
    before = resident_file_bytes()
    assert parameter.load(torch.float32).data_ptr() == parameter.load(torch.float32).data_ptr()
    for start in range(0, 4096, 256):
        assert float(parameter.rows(start, start + 256, torch.float64).sum()) == 256 * 4096
    assert resident_file_bytes() - before < 8 * 2**20, "64 MB were read through pages that stayed"


def resident_file_bytes() -> int:
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) * 1024 for line in status if line.startswith("RssFile"))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_the_row_that_is_not_finite_is_named(value: float, dtype: torch.dtype, tmp_path: Path) -> None:
    a, b = torch.ones(3, 2, dtype=dtype), torch.ones(4, 2, dtype=dtype)
    b[2, 1] = value
    tensors = stored(tmp_path, a=a, b=b)
    parameter = Parameter("both", (7, 2), (Part(tensors["a"], 0, 3), Part(tensors["b"], 0, 4)))
    with pytest.raises(CheckpointError, match="model.safetensors: tensor 'b' holds NaN or infinity in row 2"):
        parameter.load_finite(torch.float32)


def test_large_but_finite_values_are_weights(tmp_path: Path) -> None:
    parameter = Parameter("a", (4,), (Part(stored(tmp_path, a=torch.full((4,), 3e38))["a"], 0, 4),))
    assert parameter.load_finite(torch.float32).tolist() == pytest.approx([3e38] * 4)


def test_an_engine_refuses_weights_that_are_not_finite(models: Callable[..., Path], tmp_path: Path) -> None:
    import shutil

    from safetensors.torch import load_file

    from flowserve import Engine, EngineConfig

    folder = Path(shutil.copytree(models("llama", num_hidden_layers=1), tmp_path / "model"))
    tensors = load_file(folder / "model.safetensors")
    tensors["model.layers.0.self_attn.k_proj.weight"][5, 7] = float("nan")
    save_file(tensors, folder / "model.safetensors")
    with pytest.raises(
        CheckpointError, match="'model.layers.0.self_attn.k_proj.weight' holds NaN or infinity in row 5"
    ):
        Engine.from_folder(folder, EngineConfig(num_threads=1))
