"""What `flowserve bench` does with its arguments."""

from __future__ import annotations

import json
import signal
import sys
from pathlib import Path

from ..errors import InvalidConfigError
from .markdown import markdown
from .measure import Report, measure, prepare
from .options import Options


def run(options: Options, *, only_prepare: bool, output: list[Path], as_json: bool) -> None:
    """Measure and print; `output` gets JSON, or Markdown where a name ends in .md, written anew after each subject."""
    for path in output:
        if path.suffix not in (".json", ".md"):
            raise InvalidConfigError(f"output {str(path)!r}: must end in .json or .md")
    if only_prepare:
        for label, text in prepare(options, _tell).items():
            print(f"{label} failed: {text}")
        return

    def keep(report: Report) -> None:
        for path in output:
            partial = path.with_name(path.name + ".partial")
            partial.write_text(_text(report, path.suffix == ".json"), encoding="utf-8")
            partial.replace(path)

    signal.signal(signal.SIGTERM, signal.default_int_handler)  # the subject that runs is to end, too
    report = measure(options, _tell, keep)
    keep(report)
    print(_text(report, as_json), end="")


def _text(report: Report, as_json: bool) -> str:
    return json.dumps(report, indent=2) + "\n" if as_json else markdown(report)


def names(text: str) -> tuple[str, ...]:
    """Those of a list with commas."""
    return tuple(name.strip() for name in text.split(",") if name.strip())


def _tell(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
