"""Where the time to the first result goes, printed on stderr with DEEPSERVE_TIMINGS=1."""

from __future__ import annotations

import os
import sys
import time
from typing import TYPE_CHECKING

from deepserve.errors import DeepServeError
from deepserve.settings import current_settings

if TYPE_CHECKING:
    from deepserve._client import Client

_marks: list[tuple[str, float]] = []
_is_printed = False


def mark(name: str) -> None:
    """What has just been done; only the first remote call's marks count."""
    if not _is_printed and current_settings().timings:
        _marks.append((name, time.monotonic()))


def is_wanted() -> bool:
    return not _is_printed and current_settings().timings


def finish(client: Client, request_id: str) -> None:
    """Print the timeline of the first call, with the controller's own steps where it tells them."""
    mark("result")
    try:
        steps = client.query("timeline", {"request_id": request_id}, timeout_s=2.0).get("steps_ms", {})
    except DeepServeError:
        steps = {}
    print_once(steps)


def process_start_s() -> float:
    """When this process began, on the monotonic clock (to about 10 ms: the kernel counts in ticks)."""
    with open("/proc/self/stat") as file:
        fields = file.read().rpartition(")")[2].split()
    started_boottime_s = int(fields[19]) / os.sysconf("SC_CLK_TCK")
    return started_boottime_s + time.monotonic() - time.clock_gettime(time.CLOCK_BOOTTIME)


def print_once(controller_steps: dict[str, float] | None = None) -> None:
    """The first call's timeline. controller_steps: name and milliseconds of what the controller and the pod did."""
    global _is_printed
    if _is_printed:
        return
    _is_printed = True
    started_s = last_s = process_start_s()
    lines = ["deepserve: first call, milliseconds since the process started (and of the step)"]
    for name, at_s in _marks:
        lines.append(f"  {(at_s - started_s) * 1e3:8.1f} {(at_s - last_s) * 1e3:+8.1f}  {name}")
        last_s = at_s
    if controller_steps:
        lines.append("  of which, as the controller and the pod measured it")
        lines.extend(f"           {took_ms:8.1f}  {name}" for name, took_ms in controller_steps.items())
    print("\n".join(lines), file=sys.stderr)
