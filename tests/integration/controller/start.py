"""Starts the real controller with the fake template, and with unpickling made impossible in its process."""

from __future__ import annotations

import os
import pickle
import sys

from deepserve_controller import __main__ as entry
from deepserve_controller.pod_providers import template_process

FAKE_TEMPLATE = os.path.join(os.path.dirname(__file__), "fake_template.py")


def refuse(*args: object, **kwargs: object) -> object:
    print("UNPICKLED IN THE CONTROLLER", file=sys.stderr, flush=True)
    os._exit(99)


def fake_command(environment: str, control_fd: int) -> list[str]:
    return [sys.executable, FAKE_TEMPLATE, "--environment", environment, "--control-fd", str(control_fd)]


if __name__ == "__main__":
    pickle.loads = pickle.load = refuse  # type: ignore[assignment]
    pickle.Unpickler = pickle._Unpickler = refuse  # type: ignore[assignment, misc, attr-defined]
    template_process.template_command = fake_command
    sys.exit(entry.main())
