"""What `flowserve bench` does with its arguments."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from ..errors import InvalidConfigError
from .markdown import markdown
from .measure import Options, measure, prepare


def run(options: Options, *, only_prepare: bool, output: list[Path], as_json: bool) -> None:
    """Measure and print; `output` gets JSON, or Markdown where a name ends in .md."""
    for path in output:
        if path.suffix not in (".json", ".md"):
            raise InvalidConfigError(f"output {str(path)!r}: must end in .json or .md")
    if only_prepare:
        for label, text in prepare(options, _tell).items():
            print(f"{label} failed: {text}")
        return
    report = measure(options, _tell)
    text = json.dumps(report, indent=2) + "\n"
    for path in output:
        path.write_text(markdown(report) if path.suffix == ".md" else text, encoding="utf-8")
    print(text if as_json else markdown(report), end="")


def names(text: str) -> tuple[str, ...]:
    """Those of a list with commas."""
    return tuple(name.strip() for name in text.split(",") if name.strip())


def _tell(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
