"""Checkpoint: the tensors of a model folder by name, in one safetensors file or several with an index."""

from __future__ import annotations

from pathlib import Path

from ..errors import CheckpointError
from .json_fields import read_json
from .safetensors_file import SafetensorsFile, StoredTensor

_SINGLE, _INDEX = "model.safetensors", "model.safetensors.index.json"


class Checkpoint:
    """Headers are read here, the tensors' bytes when somebody touches them.

    Raises CheckpointError naming the file or the tensor: nothing there, truncated, contradicting itself, a file that
    the index names and the folder lacks, a tensor that is in two files.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        if (folder / _INDEX).is_file():
            self._tensors = _read_shards(folder)
        elif (folder / _SINGLE).is_file():
            self._tensors = SafetensorsFile(folder / _SINGLE).tensors
        else:
            raise CheckpointError(f"{folder}: no {_SINGLE} and no {_INDEX}")

    def __contains__(self, name: str) -> bool:
        return name in self._tensors

    def tensor(self, name: str, shape: tuple[int, ...]) -> StoredTensor:
        """Where the tensor is stored; it exists and has this shape and a floating dtype."""
        stored = self._tensors.get(name)
        if stored is None:
            raise CheckpointError(f"{self.folder}: tensor {name!r} is missing")
        where = f"{stored.file.path}: tensor {name!r}"
        if stored.shape != shape:
            raise CheckpointError(f"{where} has shape {stored.shape}, config.json asks for {shape}")
        if not stored.is_floating_point:
            raise CheckpointError(f"{where} holds torch.{stored.type_name}, not weights")
        return stored


def has_all_weights(folder: Path) -> bool:
    """Whether all files are there; of a model that is being fetched some may not be. Raises CheckpointError."""
    if not (folder / _INDEX).is_file():
        return (folder / _SINGLE).is_file()
    return all((folder / file).is_file() for file in _weight_map(folder).values())


def _weight_map(folder: Path) -> dict[str, str]:
    """The file of each tensor, by name."""
    weight_map = read_json(folder / _INDEX).get("weight_map")
    if not isinstance(weight_map, dict) or not all(isinstance(file, str) for file in weight_map.values()):
        raise CheckpointError(f"{folder / _INDEX}: no weight_map")
    return weight_map


def _read_shards(folder: Path) -> dict[str, StoredTensor]:
    index, weight_map = folder / _INDEX, _weight_map(folder)
    tensors: dict[str, StoredTensor] = {}
    for file in sorted(set(weight_map.values())):
        if Path(file).name != file or not (folder / file).is_file():
            raise CheckpointError(f"{index}: names {file!r}, which is not in the folder")
        for name, stored in SafetensorsFile(folder / file).tensors.items():
            if name in tensors:
                raise CheckpointError(f"{folder}: tensor {name!r} is in {tensors[name].file.path.name} and in {file}")
            tensors[name] = stored
    for name, file in weight_map.items():
        if name not in tensors:
            raise CheckpointError(f"{index}: places tensor {name!r} in {file!r}, which does not hold it")
    return tensors
