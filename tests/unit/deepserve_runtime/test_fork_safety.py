"""What a process holds that a fork cannot share. Each case runs in a process of its own: this one holds plenty."""

from __future__ import annotations

import subprocess
import sys

import pytest

RUN = """
import gc, os, sys
gc.freeze()
from deepserve_runtime.fork_safety import obstacle
held = []
{code}
print(obstacle([], is_snapshot={snap}))
sys.stdout.flush()
os._exit(0)
"""


def obstacle_of(code: str, is_snapshot: bool = True) -> str:
    command = [sys.executable, "-c", RUN.format(code=code, snap=is_snapshot)]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout.strip()


@pytest.mark.parametrize(
    ("code", "text"),
    [
        ("import threading as t; t.Thread(target=t.Event().wait, name='poller').start()", "thread 'poller' is alive"),
        ("import socket; held.append(socket.socketpair())", "unix socket is open"),
        ("import socket; held.append(socket.create_server(('127.0.0.1', 0)))", "tcp socket 127.0.0.1:"),
        ("held.append(os.pipe())", "a pipe is open"),
        ("import select; held.append(select.epoll())", "a eventpoll is open"),
        ("held.append(open(os.__file__, 'rb'))", "is open"),
        ("import subprocess; held.append(subprocess.Popen(['sleep', '60'])); held[0].kill()", "child process"),
        ("import signal; signal.setitimer(signal.ITIMER_REAL, 60)", "a real interval timer runs"),
    ],
)  # fmt: skip
def test_obstacles_have_names(code: str, text: str) -> None:
    found = obstacle_of(code)
    assert text in found


@pytest.mark.parametrize(
    "code",
    [
        "import json, asyncio; asyncio.run(asyncio.sleep(0))",
        "import threading; t = threading.Thread(target=print, args=('',)); t.start(); t.join()",
        "from concurrent.futures import ThreadPoolExecutor as P\nwith P() as pool: pool.submit(int).result()",
        "held.append(open('/dev/null'))",
        "import mmap\nwith open(os.__file__) as f: held.append(mmap.mmap(f.fileno(), 0, prot=mmap.PROT_READ))",
        "import tempfile; p = tempfile.mktemp(); held.append(open(p, 'a')); os.unlink(p)",
        "import subprocess; subprocess.run(['true'])",
        "import os; os.environ['OPENBLAS_NUM_THREADS'] = '1'; import numpy; numpy.random.random()",
    ],
)
def test_what_is_over_or_harmless_is_none(code: str) -> None:
    assert obstacle_of(code, is_snapshot=False).strip() == ""


@pytest.mark.parametrize(
    ("code", "name"),
    [
        ("import random; held.append(random.Random(1))", "random.Random"),
        (
            "os.environ['OPENBLAS_NUM_THREADS'] = '1'; import numpy; held.append(numpy.random.default_rng())",
            "Generator",
        ),
        (
            "os.environ['OPENBLAS_NUM_THREADS'] = '1'; import numpy; held.append(numpy.random.RandomState())",
            "RandomState",
        ),
    ],
)
def test_generators_are_an_obstacle_where_nobody_asked_for_shared_state(code: str, name: str) -> None:
    assert name in obstacle_of(code, is_snapshot=False)
    assert obstacle_of(code, is_snapshot=True) == ""
