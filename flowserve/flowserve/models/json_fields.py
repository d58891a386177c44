"""Reading a model folder's JSON files, field by field, with errors that name file and field. Needs no torch."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import CheckpointError, ModelNotFoundError


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file; CheckpointError names the file."""
    content = _read(path)
    if not isinstance(content, dict):
        raise CheckpointError(f"{path}: expected a JSON object")
    return content


def read_json_list(path: Path) -> list[Any]:
    """A JSON list from a file; CheckpointError names the file."""
    content = _read(path)
    if not isinstance(content, list):
        raise CheckpointError(f"{path}: expected a JSON list")
    return content


def read_config_json(folder: Path) -> tuple[Path, dict[str, Any], str]:
    """config.json of a model folder: its path, its fields, and the architecture that it names.

    Raises ModelNotFoundError without a folder or config.json, CheckpointError for an unusable one.
    """
    path = folder / "config.json"
    if not folder.is_dir():
        raise ModelNotFoundError(f"no model folder {str(folder)!r}")
    if not path.is_file():
        raise ModelNotFoundError(f"{str(folder)!r} is not a model folder: it has no config.json")
    raw = read_json(path)
    names = raw.get("architectures")
    if not isinstance(names, list) or not names or not isinstance(names[0], str):
        raise CheckpointError(f"{path}: field 'architectures' must name the model's class, got {names!r}")
    return path, raw, names[0]


def _read(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: {error}") from error


@dataclass(frozen=True)
class FieldReader:
    """Fields of one object in the file at `path`; null counts as missing. Raises CheckpointError."""

    raw: dict[str, Any]
    path: Path

    def number(self, name: str, default: float | None = None) -> float:
        """A positive number."""
        value = self.raw.get(name)
        value = default if value is None else value
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < float("inf"):
            raise CheckpointError(f"{self.path}: field {name!r} must be a positive number, got {value!r}")
        return value

    def optional_number(self, name: str) -> float | None:
        """A positive number, or None where the field is missing."""
        return None if self.raw.get(name) is None else self.number(name)

    def count(self, name: str, default: int | None = None) -> int:
        """A positive whole number."""
        value = self.number(name, default)
        if value != int(value):
            raise CheckpointError(f"{self.path}: field {name!r} must be a whole number, got {value!r}")
        return int(value)

    def numbers(self, name: str, length: int) -> tuple[float, ...]:
        """A list of positive numbers of this length."""
        values = self.raw.get(name)
        if not isinstance(values, list) or len(values) != length:
            found = f"{len(values)}" if isinstance(values, list) else repr(values)
            raise CheckpointError(f"{self.path}: field {name!r} must be {length} numbers, got {found}")
        return tuple(FieldReader({name: value}, self.path).number(name) for value in values)
