"""A model's pod that dies: its request says so, the next one gets another pod."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

import deepserve
from deepserve.errors import PodLost


def test_pod_killed_while_it_streams(llm: deepserve.Model) -> None:
    with pytest.raises(PodLost, match="SIGKILL"):
        for number, _piece in enumerate(llm.stream("hi", temperature=1.0, seed=3)):
            if number == 0:
                for pod in pods("flowserve"):
                    os.kill(pod, signal.SIGKILL)
    assert llm.generate("hi", max_tokens=1, temperature=0)


def pods(environment: str) -> list[int]:
    """Processes below this one that were forked from the template of `environment`."""
    parents, templates = {}, set()
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdigit():
                parents[int(entry.name)] = int((entry / "stat").read_text().rsplit(")", 1)[1].split()[1])
                if f"--environment\0{environment}\0" in (entry / "cmdline").read_text():
                    templates.add(int(entry.name))
        except OSError:
            continue

    def is_below_this_process(pid: int) -> bool:
        while pid and pid != os.getpid():
            pid = parents.get(pid, 0)
        return pid != 0

    return [pid for pid in templates if parents[pid] in templates and is_below_this_process(pid)]
