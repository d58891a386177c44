"""Finding and ending processes, with real ones."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

from deepserve_controller.pod_providers.local import exit_reason
from deepserve_controller.service.processes import descendants, kill_tree, pod_of, read_stat


def test_a_process_is_told_from_a_later_one_of_its_number() -> None:
    own = read_stat(os.getpid())
    assert own is not None and own.parent_pid == os.getppid() and own.start_ticks > 0
    assert read_stat(2**22 + 1) is None


def test_the_pod_is_read_from_the_environment() -> None:
    process = subprocess.Popen(["sleep", "30"], env={**os.environ, "DEEPSERVE_POD_ID": "pod-7"})
    try:
        until_s = time.monotonic() + 30
        while pod_of(process.pid) is None and time.monotonic() < until_s:
            time.sleep(0.002)  # the program has not been loaded yet
        assert pod_of(process.pid) == "pod-7"
    finally:
        process.kill()
        process.wait()
    assert pod_of(os.getpid()) is None


def test_a_tree_ends_across_sessions() -> None:
    script = "import os, time; os.fork() or os.setsid(); os.fork(); print('up', flush=True); time.sleep(30)"
    process = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, start_new_session=True)
    assert process.stdout is not None
    for _ in range(4):
        process.stdout.readline()
    below = descendants(process.pid)
    assert len(below) == 3
    kill_tree(process.pid)
    assert process.wait(30) == -signal.SIGKILL
    assert process.stdout.read() == b""  # all copies of the pipe are closed
    process.stdout.close()


def test_exits_are_told_in_words() -> None:
    assert exit_reason(3) == "ended with exit code 3"
    assert exit_reason(-9) == "killed by SIGKILL"
    assert exit_reason(-250) == "killed by signal 250"
