"""`deepserve bench`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from deepserve.cli.exit_codes import OK, UsageError
from deepserve.cli.output import print_json, print_table


def run_calls(
    *, only: str, rounds: int, is_quick: bool, with_peers: bool, with_profile: bool, output: Path | None, as_json: bool
) -> int:
    """`deepserve bench calls`: a table, or the report as JSON, which `output` gets in any case."""
    from deepserve.bench.calls import WORKS, Options, measure
    from deepserve.bench.subjects import PEER_ENVIRONMENTS

    if with_profile:
        return run_profile(num_calls=500 if is_quick else 5000, as_json=as_json)
    works = _chosen(only, WORKS, rounds, "no work {!r}")
    options = Options(works, 1 if is_quick else rounds, is_quick, PEER_ENVIRONMENTS if with_peers else None)
    return _show(measure(options, tell=_tell), output, as_json)


def _chosen(only: str, known: tuple[str, ...], rounds: int, unknown: str) -> tuple[str, ...]:
    """Those that are named, or all. Raises UsageError, also for no round at all."""
    names = tuple(name for name in only.split(",") if name) or known
    for name in names:
        if name not in known:
            raise UsageError(f"{unknown.format(name)}; there are: {', '.join(known)}")
    if rounds < 1:
        raise UsageError(f"--rounds {rounds}: at least one is needed")
    return names


def _show(report: dict[str, Any], output: Path | None, as_json: bool) -> int:
    if output is not None:
        with output.open("w") as file:
            print_json(report, file)
    if as_json:
        print_json(report)
    else:
        _print_report(report)
    return OK


def run_scale(*, only: str, rounds: int, is_quick: bool, with_peers: bool, output: Path | None, as_json: bool) -> int:
    """`deepserve bench scale`: likewise."""
    from deepserve.bench.scale import KINDS, Options, measure
    from deepserve.bench.subjects import PEER_ENVIRONMENTS

    kinds = _chosen(only, KINDS, rounds, "no pods that are {!r}")
    options = Options(kinds, 1 if is_quick else rounds, is_quick, PEER_ENVIRONMENTS if with_peers else None)
    return _show(measure(options, tell=_tell), output, as_json)


def run_models(*, only: str, rounds: int, is_quick: bool, output: Path | None, as_json: bool) -> int:
    """`deepserve bench models`: likewise."""
    from deepserve.bench.models import WORKS, Options, measure

    works = _chosen(only, WORKS, rounds, "no work {!r}")
    return _show(measure(Options(works, 1 if is_quick else rounds, is_quick), tell=_tell), output, as_json)


def run_profile(*, num_calls: int, as_json: bool) -> int:
    import deepserve
    from deepserve.bench import profile

    deepserve.init(engine="embedded")
    found = profile.profile(num_calls)
    if as_json:
        print_json(found)
        return OK
    print(
        f"{found['num_calls']:,} warm calls: p50 {found['p50_us']:.0f} µs, mean {found['mean_us']:.0f} µs, "
        f"of which {found['run_us']:.0f} µs of processor time in all processes"
    )
    print_table(profile.COLUMNS, [profile.cells(row) for row in found["rows"]], empty="nothing measured")
    return OK


def _print_report(report: dict[str, Any]) -> None:
    from deepserve.bench.report import COLUMNS, cells

    print(f"{report['taken']}  Python {report['python']}, {report['cores']} cores, {report['machine']}")
    found = report["rows"]
    befores = [None, *found]
    print_table(COLUMNS, [cells(row, before) for row, before in zip(found, befores, strict=False)], empty="nothing")
    for who, text in report["failed"].items():
        print(f"{who} failed: {text}")
    if report["not_measured"]:
        print(f"not measured: {', '.join(report['not_measured'])} (make bench-peers)")


def _tell(text: str) -> None:
    if sys.stderr.isatty():
        print(text, file=sys.stderr)
