"""How commands print: tables and plain lines for people, one JSON document with `--json`."""

from __future__ import annotations

import json
import shutil
import sys
import textwrap
from collections.abc import Iterable, Sequence
from typing import Any, TextIO


def print_json(value: Any, file: TextIO | None = None) -> None:
    print(json.dumps(value, default=str, ensure_ascii=False), file=file, flush=True)


def print_table(columns: Sequence[str], rows: Iterable[Sequence[object]], *, empty: str) -> None:
    """A table as wide as its content; `empty` is printed where there are no rows."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    body = [[str(cell) for cell in row] for row in rows]
    if not body:
        print(empty)
        return
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for column in columns:
        table.add_column(column, overflow="fold")  # an id that is cut off is none
    for row in body:
        table.add_row(*row)
    Console(width=None if sys.stdout.isatty() else 200).print(table)


def print_entry(text: str, *, depth: int = 0) -> None:
    """One line, two columns further in for each `depth`. A terminal that is narrower has its rest below it, still
    further in, broken between words; elsewhere it stays one line."""
    line = "  " * depth + text
    if sys.stdout.isatty():
        width, further = shutil.get_terminal_size().columns, "  " * (depth + 2)
        line = textwrap.fill(
            line, width, subsequent_indent=further, break_on_hyphens=False, drop_whitespace=True, tabsize=2
        )
    print(line)


def complain(text: str) -> None:
    """One line (or several) on stderr, so that stdout stays parseable."""
    print(f"deepserve: {text}", file=sys.stderr)
