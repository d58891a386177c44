"""A report as Markdown: for each model a table, one line for each figure and precision."""

from __future__ import annotations

from itertools import groupby
from typing import Any

from .report import BOUND
from .scripts.measuring import NOISY_CORES
from .shapes import SHAPES
from .subjects import OURS

COLUMNS = ("figure", "weights", "bound", OURS, "others, best first")
_LIMITS = (
    "Limits of the run: {reads} GB/s read by all cores; products of 512 rows {fp32_gflops:.0f} GFLOP/s in "
    "float32, {int8_gflops:.0f} in int8."
)
_LEGEND = (
    "Medians; in brackets the smallest and the largest sample. A star: others used more than {noisy} cores meanwhile "
    "(the median over the samples). Memory: megabytes of the process (RSS, mapped pages that it has read among them), "
    "and how many times the weights that is: all of it / without what a process takes that imports its libraries alone."
)


def markdown(report: dict[str, Any]) -> str:
    """The tables, and what the run was taken on."""
    lines = [
        f"# `{report['command']}`, {report['taken']}",
        "",
        f"{report['cores']} cores ({report['machine']}), Python {report['python']}, "
        f"load before {report['load_before']:.1f}; took {report['took_s'] / 60:.0f} minutes"
        f"{'' if report['finished'] else ', and was not at its end'}; "
        f"rounds: {_rounds(report['rounds'])}.",
    ]
    if report["limits"]:
        reads = ", ".join(f"{_number(gbs)} (of {size} MB)" for size, gbs in report["limits"]["read_gbs"].items())
        lines.append(_LIMITS.format(reads=reads, **report["limits"]))
    for model, rows in groupby(report["rows"], lambda row: row["model"]):
        lines += ["", f"## {model}: {SHAPES[model].title}", "", _line(COLUMNS), _line(["---"] * len(COLUMNS))]
        figure = ""
        for (title, precision), group in groupby(rows, lambda row: (row["title"], row["precision"])):
            found = list(group)
            name = "" if title == figure else f"{title}, {found[0]['unit']}"
            lines.append(_line([name, precision, *_cells(found)]))
            figure = title
    lines += ["", _LEGEND.format(noisy=NOISY_CORES)]
    lines += [f"- {label} failed: {' '.join(text.split())}" for label, text in report["failed"].items()]
    if report["not_measured"]:
        lines.append(f"- not measured: {', '.join(report['not_measured'])} (make bench-engine-peers)")
    return "\n".join(lines) + "\n"


def _rounds(num_rounds: dict[str, int]) -> str:
    """Most have as many; the others are named."""
    most = max(num_rounds.values(), default=0)
    fewer = [f"{label} {number}" for label, number in num_rounds.items() if number < most]
    return f"{most} (but {'; '.join(fewer)})" if fewer else str(most)


def _line(texts: list[str] | tuple[str, ...]) -> str:
    return f"| {' | '.join(texts)} |"


def _cells(rows: list[dict[str, Any]]) -> list[str]:
    """Bound, FlowServe (what is measured without further options first), the others."""
    bounds = [_number(row["median"]) for row in rows if row["who"] == BOUND]
    ours: list[str] = []
    others: list[str] = []
    for row in rows:
        if row["who"] == f"{OURS} {row['precision']}":
            ours.insert(0, f"**{_figure(row)}**{_spread(row)}")
        elif row["who"].startswith(OURS):
            ours.append(f"{row['who'].removeprefix(OURS).strip()}: {_figure(row)}{_spread(row)}")
        elif row["who"] != BOUND:
            others.append(f"{row['who']} {_figure(row)}{_spread(row)}")
    return [", ".join(bounds), "; ".join(ours), ", ".join(others)]


def _figure(row: dict[str, Any]) -> str:
    times = [row[name] for name in ("of_weights", "above_base") if row.get(name) is not None]
    against = f" ({' / '.join(f'{each:.2f}' for each in times)}x)" if times else ""
    return f"{_number(row['median'])}{'*' if row['foreign'] > NOISY_CORES else ''}{against}"


def _spread(row: dict[str, Any]) -> str:
    low, high = (_number(value) for value in row["spread"])
    return f" ({low}-{high})" if low != high and "of_weights" not in row else ""


def _number(value: float) -> str:
    """Three digits that count, whole numbers from 100 on."""
    if value >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}" if value >= 0.1 else f"{value:.3f}"
