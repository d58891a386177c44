"""Reading a model folder's JSON files, field by field, with errors that name file and field. Needs no torch."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import CheckpointError


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file; CheckpointError names the file."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: {error}") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{path}: expected a JSON object")
    return content


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
