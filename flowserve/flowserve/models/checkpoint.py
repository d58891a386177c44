"""Checkpoint: the tensors of a model folder by name, mapped from its safetensors files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from ..errors import CheckpointError
from .config import read_json

_SINGLE, _INDEX = "model.safetensors", "model.safetensors.index.json"


class Checkpoint:
    """One file or several with an index. Files are mapped when a tensor of theirs is first asked for.

    Raises CheckpointError naming the file or the tensor: nothing there, truncated, missing, or of another shape.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._files: dict[Path, Any] = {}
        if (folder / _INDEX).is_file():
            weight_map = read_json(folder / _INDEX).get("weight_map")
            if not isinstance(weight_map, dict):
                raise CheckpointError(f"{folder / _INDEX}: no weight_map")
            self._places = {name: folder / file for name, file in weight_map.items()}
        elif (folder / _SINGLE).is_file():
            names = self._open(folder / _SINGLE).keys()
            self._places = dict.fromkeys(names, folder / _SINGLE)
        else:
            raise CheckpointError(f"{folder}: no {_SINGLE} and no {_INDEX}")

    def __contains__(self, name: str) -> bool:
        return name in self._places

    def tensor(self, name: str, shape: tuple[int, ...]) -> torch.Tensor:
        """The tensor as stored, backed by the mapped file."""
        if name not in self._places:
            raise CheckpointError(f"{self.folder}: tensor {name!r} is missing")
        path = self._places[name]
        try:
            tensor: torch.Tensor = self._open(path).get_tensor(name)
        except SafetensorError as error:
            raise CheckpointError(f"{path}: tensor {name!r}: {error}") from error
        if tuple(tensor.shape) != shape:
            raise CheckpointError(
                f"{path}: tensor {name!r} has shape {tuple(tensor.shape)}, config.json asks for {shape}"
            )
        return tensor

    def _open(self, path: Path) -> Any:
        if path not in self._files:
            try:
                self._files[path] = safe_open(path, framework="pt", device="cpu")
            except (SafetensorError, OSError) as error:
                raise CheckpointError(f"{path}: {error}") from error
        return self._files[path]
