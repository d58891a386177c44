"""What user code leaves running belongs to its pod: it lives as long as that, whatever happens to other pods."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest

import deepserve
from deepserve import errors
from tests.integration.functions.conftest import wait_until


@deepserve.function(name="keeper")
def leave_daemon() -> tuple[int, int]:
    """A daemon as servers make them: forked twice, in a session of its own, without another program."""
    read_end, write_end = os.pipe()
    if (child := os.fork()) == 0:
        os.setsid()
        if (daemon := os.fork()) > 0:
            os.write(write_end, daemon.to_bytes(4, "little"))
            os._exit(0)
        time.sleep(60)
        os._exit(0)
    os.waitpid(child, 0)
    return os.getpid(), int.from_bytes(os.read(read_end, 4), "little")


@deepserve.function(name="victim")
def end_pod() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_a_daemon_outlives_another_pod_and_ends_with_its_own() -> None:
    keeper, daemon = leave_daemon.remote()
    assert is_alive(daemon)
    with pytest.raises(errors.PodLost, match="killed by SIGKILL") as lost:
        end_pod.remote()
    assert str(lost.value).count("SIGKILL") == 1
    time.sleep(0.1)  # what that pod may have left is looked for
    assert is_alive(daemon)
    os.kill(keeper, signal.SIGKILL)
    wait_until(lambda: not is_alive(daemon))
