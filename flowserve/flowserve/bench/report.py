"""Samples to rows: medians, spread, and ratios within one run."""

from __future__ import annotations

from statistics import median
from typing import Any

from .bounds import Limits, bound, weight_mb
from .rounds import Sample
from .scripts.measuring import QUICK_WORKS, READ_MB, WORKS, Work
from .shapes import SHAPES
from .subjects import OURS, PRECISIONS

FIGURES = {
    "one": ("one", "one stream, {own} in, {num_out} out: decode"),
    "first": ("one", "one stream, {own} in: time to the first token"),
    "sixteen": ("sixteen", "{num} at once, {own} in, {num_out} out: output"),
    "shared cold": ("shared", "{num} x ({shared} shared + {own} own) in, {num_out} out, all new"),
    "shared warm": ("shared", "the same, the shared part seen before"),
    "prompt": ("prompt", "a prompt of {own}"),
    "fresh": ("one", "from the start of the process to the first token"),
    "forked": ("one", "from a fork of a process with torch imported to the first token"),
    "packing": ("one", "from the start of the process to the first token, no weights packed yet"),
    "base": ("one", "memory of a process that imports its libraries alone"),
    "loading": ("one", "most memory until the first token"),
    "packing memory": ("one", "most memory until the first token, no weights packed yet"),
    "loaded": ("one", "memory at the first token"),
    "memory": ("one", "most memory under the works"),
    "sleep 1": ("one", "to sleep, weights left to the page cache"),
    "wake 1": ("one", "to wake, weights in the page cache"),
    "asleep 1": ("one", "memory of the process asleep"),
    "sleep 2": ("one", "to sleep, weights dropped"),
    "wake 2": ("one", "to wake, weights to be loaded"),
    "asleep 2": ("one", "memory of the process asleep, weights dropped"),
    "cost median": ("one", "cost model, steps that were not fitted: error, the median"),
    "cost p90": ("one", "cost model, steps that were not fitted: error, the 90th percentile"),
}
"""By figure: the work that it is of, and its title."""
SMALLER_IS_BETTER = ("ms", "s", "MB", "%")
BOUND = "bound"


def limits_of(samples: list[Sample]) -> Limits | None:
    """The fastest that was seen of each; None without a measurement of all."""
    best: dict[str, float] = {}
    for sample in samples:
        if not sample["model"]:
            best[sample["work"]] = max(sample["value"], best.get(sample["work"], 0.0))
    read = {size: best[f"read {size}"] for size in READ_MB if f"read {size}" in best}
    if not read or not best.keys() >= {"fp32", "int8"}:
        return None
    return Limits(read, best["fp32"], best["int8"])


def rows(samples: list[Sample], is_quick: bool = False) -> list[dict[str, Any]]:
    """One for each model, figure, precision and who: the bound, FlowServe, then the others, the best first.

    median, spread (smallest and largest sample), foreign (cores used by others, median); of_ours, of_bound and, for
    memory, of_weights: the figure divided by FlowServe's of the same precision, the bound's, the size of the weights.
    above_base: the memory without that of a process which only imports the same libraries, over the weights' size.
    """
    grouped: dict[tuple[str, str, str, str], list[Sample]] = {}
    for sample in samples:
        if sample["model"]:
            what = (sample["model"], sample["work"], sample["precision"], sample["who"])
            grouped.setdefault(what, []).append(sample)
    found = [_row(group) for group in grouped.values()]
    bases = {(row["model"], row["who"]): row["median"] for row in found if row["work"] == "base"}
    for row in found:
        if row["unit"] == "MB" and row["work"] != "base":
            weights_mb = weight_mb(SHAPES[row["model"]], row["precision"])
            base_mb = bases.get((row["model"], row["who"]))
            row["of_weights"] = row["median"] / weights_mb
            row["above_base"] = None if base_mb is None else (row["median"] - base_mb) / weights_mb
    limits, works = limits_of(samples), QUICK_WORKS if is_quick else WORKS
    tables: dict[tuple[str, str, str], list[dict[str, Any]]] = {}
    for row in found:
        tables.setdefault((row["model"], row["work"], row["precision"]), []).append(row)
    models, figures = list(SHAPES), list(FIGURES)
    ordered: list[dict[str, Any]] = []
    for key in sorted(tables, key=lambda k: (models.index(k[0]), figures.index(k[1]), PRECISIONS.index(k[2]))):
        ordered += _compared(tables[key], works[FIGURES[key[1]][0]], limits)
    return ordered


def _row(group: list[Sample]) -> dict[str, Any]:
    values = [sample["value"] for sample in group]
    row: dict[str, Any] = {name: group[0][name] for name in ("model", "work", "precision", "who", "unit")}
    row |= {"median": median(values), "spread": [min(values), max(values)], "num_samples": len(values)}
    return row | {"foreign": round(median(sample["foreign"] for sample in group), 2)}


def _compared(table: list[dict[str, Any]], work: Work, limits: Limits | None) -> list[dict[str, Any]]:
    """Rows of one figure at one precision, in order, with the bound's before them."""
    first = table[0]
    shape = SHAPES[first["model"]]
    title = FIGURES[first["work"]][1].format(**work._asdict())
    least = bound(shape, first["work"], work, first["precision"], limits) if limits else None
    ours = next((row["median"] for row in table if row["who"] == f"{OURS} {first['precision']}"), None)
    worse = 1 if first["unit"] in SMALLER_IS_BETTER else -1
    table.sort(key=lambda row: (not row["who"].startswith(OURS), worse * row["median"]))
    for row in table:
        row["title"] = title
        row["of_ours"] = row["median"] / ours if ours else None
        row["of_bound"] = row["median"] / least if least else None
    if least is None:
        return table
    common = {name: first[name] for name in ("model", "work", "precision", "unit", "title")}
    no_samples = {"spread": [least, least], "num_samples": 0, "foreign": 0.0, "of_bound": 1.0}
    return [{**common, "who": BOUND, "median": least, **no_samples, "of_ours": least / ours if ours else None}, *table]
