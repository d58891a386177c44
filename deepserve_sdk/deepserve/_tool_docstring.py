"""What a docstring says to a model: the first paragraph, and the `Args:` section (Google's Python style)."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from typing import Any

_SECTION = re.compile(r"^(Args|Arguments|Parameters|Params):\s*$")
_OTHER_SECTION = re.compile(r"^[A-Z][A-Za-z ]+:\s*$")
_PARAMETER = re.compile(r"^\*{0,2}(\w+)\s*(\([^)]*\))?\s*:\s*(.*)$")


def description_of(function: Callable[..., Any]) -> str:
    """The first paragraph on one line; empty without a docstring."""
    lines: list[str] = []
    for line in (inspect.getdoc(function) or "").splitlines():
        if not line.strip() or _SECTION.match(line):
            break
        lines.append(line.strip())
    return " ".join(lines)


def parameter_descriptions(function: Callable[..., Any]) -> dict[str, str]:
    """Parameter name -> its description on one line."""
    found: dict[str, list[str]] = {}
    inside, depth, current = False, 0, ""
    for line in (inspect.getdoc(function) or "").splitlines():
        if not inside:
            inside = _SECTION.match(line) is not None
            continue
        if not line.strip():
            continue
        indent = len(line) - len(line.lstrip())
        if indent == 0:
            if _OTHER_SECTION.match(line):
                break
            continue
        depth = depth or indent
        entry = _PARAMETER.match(line.strip()) if indent == depth else None
        if entry:
            current = entry[1]
            found[current] = [entry[3]]
        elif current:
            found[current].append(line.strip())
    return {name: " ".join(part for part in parts if part) for name, parts in found.items()}
