"""`deepserve bench`."""

from __future__ import annotations

from typing import Any

from deepserve.cli.exit_codes import OK, UsageError
from deepserve.cli.output import print_json, print_table


def run_bench(what: str, *, as_json: bool) -> int:
    if what != "calls":
        raise UsageError(f"no benchmark {what!r}; there is: calls")
    from deepserve.bench import calls

    report = calls.measure()
    if as_json:
        print_json(report)
        return OK
    print(f"{report['taken']}  Python {report['python']}, {report['cores']} cores, {report['machine']}")
    columns = ("work", "who", "median", "p99 / spread", "unit")
    print_table(columns, [row(item) for item in report["measurements"]], empty="nothing measured")
    return OK


def row(item: dict[str, Any]) -> tuple[object, ...]:
    digits = 3 if item["unit"] == "s" else 0
    spread = item["spread"]
    beside = f"{spread[0]:,.{digits}f} - {spread[1]:,.{digits}f}" if spread else f"{item['p99']:,.{digits}f}"
    return item["work"], item["who"], f"{item['median']:,.{digits}f}", beside, item["unit"]
