"""A subject's process: before all others on its cores where that is permitted, and what it said."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any, NamedTuple

from ..errors import FlowServeError

_FIRST = 'echo -20 > /proc/self/autogroup 2>/dev/null; exec "$@"'
"""Nice values count within a session only; this one is the session's own. Without permission it goes on as it is."""
_ENVIRONMENT = {
    "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
    "TRANSFORMERS_VERBOSITY": "error",
    "TOKENIZERS_PARALLELISM": "false",
    "PYTHONWARNINGS": "ignore",
}


class SubjectFailedError(FlowServeError):
    """A subject of a benchmark did not do its work; the text is what it said last.

    lines: what it had measured before.
    """

    def __init__(self, text: str, lines: Sequence[dict[str, Any]] = ()) -> None:
        super().__init__(text)
        self.lines = list(lines)


class Said(NamedTuple):
    """lines: one JSON object each. start_s: time.monotonic() when it was started."""

    lines: list[dict[str, Any]]
    start_s: float


def run_alone(command: list[str], timeout_s: float, variables: Mapping[str, str] = {}) -> Said:
    """Start, wait, read. variables: of its environment. Raises SubjectFailedError; nothing of it goes on then."""
    name = os.path.basename(command[1])
    start_s = time.monotonic()
    started = subprocess.Popen(
        ["/bin/sh", "-c", _FIRST, "sh", *command],
        env={**os.environ, **_ENVIRONMENT, **variables},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    try:
        out, errors = started.communicate(timeout=timeout_s)
    except subprocess.TimeoutExpired:
        _kill_session(started)
        out, _ = started.communicate()
        raise SubjectFailedError(f"{name}: not done after {timeout_s:.0f} s", _lines(out)) from None
    except BaseException:
        _kill_session(started)
        raise
    if started.returncode:
        said = errors.decode(errors="replace").strip()[-500:]
        raise SubjectFailedError(f"{name}: {said or _ending(started.returncode)}", _lines(out))
    return Said(_lines(out), start_s)


def _kill_session(started: subprocess.Popen[bytes]) -> None:
    """It and its children, who would keep its pipes open."""
    with suppress(ProcessLookupError):
        os.killpg(started.pid, signal.SIGKILL)


def _ending(code: int) -> str:
    return f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"


def _lines(out: bytes) -> list[dict[str, Any]]:
    """The last line of a process that was killed may be half a one."""
    whole = out[: out.rfind(b"\n") + 1]
    return [json.loads(line) for line in whole.splitlines() if line.startswith(b"{")]
