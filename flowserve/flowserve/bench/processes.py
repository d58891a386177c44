"""A subject's process: before all others on its cores where that is permitted, and what it said."""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Mapping
from typing import Any, NamedTuple

from ..errors import FlowServeError

TIMEOUT_S = 600.0
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
    """A subject of a benchmark did not do its work; the text is what it said last."""


class Said(NamedTuple):
    """lines: one JSON object each. start_s: time.monotonic() when it was started."""

    lines: list[dict[str, Any]]
    start_s: float


def run_alone(command: list[str], timeout_s: float = TIMEOUT_S, variables: Mapping[str, str] = {}) -> Said:
    """Start, wait, read. variables: of its environment. Raises SubjectFailedError."""
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
        started.kill()
        started.communicate()
        raise SubjectFailedError(f"{name}: not done after {timeout_s:.0f} s") from None
    except BaseException:
        started.kill()
        raise
    if started.returncode:
        said = errors.decode(errors="replace").strip()[-500:]
        raise SubjectFailedError(f"{name}: {said or f'exit code {started.returncode}'}")
    return Said([json.loads(line) for line in out.splitlines() if line.startswith(b"{")], start_s)
