"""Samples to rows: medians, spread, and ratios within one run."""

from __future__ import annotations

from collections.abc import Mapping
from statistics import median
from typing import Any

from deepserve.bench.subjects import LIMIT, OURS

TITLES = {
    "warm": "warm no-op call",
    "map": "10,000 no-op calls by map, 2 pods",
    "array in": "10 MB array as argument",
    "array out": "10 MB array as result",
    "bytes in": "10 MB of bytes as argument",
    "bytes out": "10 MB of bytes as result",
    "fresh": "fresh script to its first result",
}
SMALLER_IS_BETTER = ("µs", "s", "share", "pod s")
DIGITS = {"GB/s": 2, "s": 3, "share": 3, "pod s": 1}
BESIDE = ("p99", "processes", "pss_mb", "private_mb", "worker_pss_mb")


def rows(samples: list[dict[str, Any]], titles: Mapping[str, str] = TITLES) -> list[dict[str, Any]]:
    """One for each work and who did it: limits first, then DeepServe, then the peers.

    median, spread (smallest and largest sample), p99, processes and pss_mb as medians. of_ours, of_limit: the figure
    divided by DeepServe's, and by the best limit's.
    """
    grouped: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for sample in samples:
        grouped.setdefault((sample["work"], sample["who"]), []).append(sample)
    found = [_row(group) | {"title": titles[group[0]["work"]]} for group in grouped.values()]
    found.sort(key=lambda row: (list(titles).index(row["work"]), _rank(row["who"])))
    for row in found:
        beside = [other for other in found if other["work"] == row["work"]]
        ours = next((other["median"] for other in beside if other["who"] == OURS), None)
        limits = [other["median"] for other in beside if other["who"].startswith(LIMIT)]
        best = (min if row["unit"] in SMALLER_IS_BETTER else max)(limits, default=None)
        row["of_ours"] = row["median"] / ours if ours else None
        row["of_limit"] = row["median"] / best if best else None
    return found


def _row(group: list[dict[str, Any]]) -> dict[str, Any]:
    values = [sample["value"] for sample in group]
    row: dict[str, Any] = {name: group[0][name] for name in ("work", "who", "unit")}
    row |= {"median": median(values), "spread": [min(values), max(values)], "num_samples": len(values)}
    return row | {name: median(sample[name] for sample in group) for name in BESIDE if name in group[0]}


def _rank(who: str) -> int:
    return 0 if who.startswith(LIMIT) else 1 if who.startswith(OURS) else 2


def _memory(row: dict[str, Any]) -> str:
    """Of all processes; of one worker what it alone has written, and its share of all."""
    if "private_mb" in row:
        return f"{row['private_mb']:.1f} own, {row['worker_pss_mb']:.1f} PSS"
    return f"{row['processes']:.0f}, {row['pss_mb']:.0f}" if "processes" in row else ""


COLUMNS = ("work", "who", "median", "spread", "unit", "p99", "of ours", "of limit", "processes, MB")


def cells(row: dict[str, Any], before: dict[str, Any] | None) -> tuple[str, ...]:
    """A row of the table; the work is named once."""
    digits = DIGITS.get(row["unit"], 0)
    low, high = row["spread"]
    return (
        row["title"] if before is None or before["work"] != row["work"] else "",
        row["who"],
        f"{row['median']:,.{digits}f}",
        f"{low:,.{digits}f} - {high:,.{digits}f}",
        row["unit"],
        f"{row['p99']:,.{digits}f}" if "p99" in row else "",
        f"{row['of_ours']:.2f}x" if row["of_ours"] else "",
        f"{row['of_limit']:.2f}x" if row["of_limit"] else "",
        _memory(row),
    )
