"""User code whose state is built once and shared; imported by the pods, so it stands alone."""

from __future__ import annotations

import os
import random
import socket
import subprocess
import threading
import time
from pathlib import Path
from typing import Any

import deepserve

app = deepserve.App("snapshots")
STATE_BYTES = 64 << 20


def note(folder: str, name: str) -> None:
    with open(Path(folder, name), "a") as file:
        file.write(f"{os.getpid()}\n")


def meet(folder: str, num_calls: int) -> None:
    """Until that many calls run at once, each in its pod."""
    Path(folder, f"here-{os.getpid()}").touch()
    ends_s = time.monotonic() + 60.0
    while len([name for name in os.listdir(folder) if name.startswith("here-")]) < num_calls:
        assert time.monotonic() < ends_s, "the others never came"
        time.sleep(0.01)


def private_bytes() -> int:
    """What only this process holds in memory."""
    with open("/proc/self/smaps_rollup") as file:
        fields = dict(line.split(":", 1) for line in file if ":" in line)
    return int(fields["Private_Dirty"].split()[0]) << 10


class Base:
    folder: str = deepserve.parameter()

    @deepserve.enter(snap=True)
    def load(self) -> None:
        note(self.folder, "load")
        self.order = ["load"]
        self.state = bytearray(os.urandom(1 << 16)) * (STATE_BYTES >> 16)
        self.loaded_by = os.getpid()


@app.cls(max_pods=8, scaledown_window=30)
class Ranker(Base):
    @deepserve.enter()
    def enter_pod(self) -> None:
        note(self.folder, "pod")
        self.order.append("pod")

    @deepserve.enter(snap=True)
    async def load_more(self) -> None:
        self.order.append("more")

    @deepserve.method()
    def look(self, num_calls: int) -> dict[str, Any]:
        meet(self.folder, num_calls)
        return {
            "pid": os.getpid(),
            "order": self.order,
            "loaded_by": self.loaded_by,
            "private_bytes": private_bytes(),
            "checksum": self.state[12345],
            "drawn": (random.random(), self.numpy_draw()),
        }

    def numpy_draw(self) -> float:
        import numpy

        return float(numpy.random.random())

    @deepserve.method()
    def template_pid(self) -> int:
        return os.getppid()

    @deepserve.exit()
    def close(self) -> None:
        note(self.folder, "close")


@app.cls(max_pods=2)
class Obstructed:
    kind: str = deepserve.parameter()

    @deepserve.enter(snap=True)
    def load(self) -> None:
        self.held: Any = getattr(self, f"hold_{self.kind}")()
        self.loaded_by = os.getpid()

    def hold_thread(self) -> object:
        thread = threading.Thread(target=threading.Event().wait, name="poller", daemon=True)
        thread.start()
        return thread

    def hold_socket(self) -> object:
        server = socket.create_server(("127.0.0.1", 0))
        return server, socket.create_connection(server.getsockname())

    def hold_file(self) -> object:
        return open(__file__)

    def hold_pipe(self) -> object:
        return os.pipe()

    def hold_child(self) -> object:
        return subprocess.Popen(["sleep", "60"])

    def hold_call(self) -> object:
        return plain.remote(1)

    @deepserve.method()
    def is_loaded_here(self) -> bool:
        return self.loaded_by == os.getpid()


@app.cls
class Broken:
    how: str = deepserve.parameter()

    @deepserve.enter(snap=True)
    def load(self) -> None:
        if self.how == "raises":
            raise LookupError("no weights here")
        if self.how == "dies":
            os._exit(3)
        threading.Event().wait()

    @deepserve.method()
    def score(self) -> int:
        return 1


@app.function
def plain(x: int) -> int:
    return x


@app.function(max_pods=8)
def burst(folder: str, num_calls: int) -> tuple[int, int]:
    meet(folder, num_calls)
    return os.getpid(), os.getppid()
