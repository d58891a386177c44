"""`deepserve simulate`: the controller's own simulator, in a process of its own."""

from __future__ import annotations

import json
import subprocess
import sys

from deepserve.cli.exit_codes import OK, USER_CODE_FAILED, UsageError
from deepserve.cli.output import complain

SIMULATOR = "deepserve_controller.simulator"


def run_simulation(scenario: str | None, *, seed: int, cost: str, as_json: bool) -> int:
    """Raises UsageError for a scenario that there is not."""
    known: dict[str, str] = json.loads(ask("--list", "--json"))
    if scenario is None:
        print(json.dumps(known) if as_json else ask("--list"), end="" if not as_json else "\n")
        return OK
    if scenario not in known:
        raise UsageError(f"no scenario {scenario!r}; there are: {', '.join(known)}")
    arguments = [scenario, "--seed", str(seed), "--cost", cost]
    done = subprocess.run(command(*arguments, *(["--json"] if as_json else [])), check=False)
    if done.returncode:
        complain(f"the simulation of {scenario} failed")
        return USER_CODE_FAILED
    return OK


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-P", "-m", SIMULATOR, *arguments]


def ask(*arguments: str) -> str:
    return subprocess.run(command(*arguments), stdout=subprocess.PIPE, text=True, check=True).stdout
