"""Functions whose pods are counted. What holds a pod ends when a file appears."""

from __future__ import annotations

import os
import time
from pathlib import Path

import deepserve

app = deepserve.App("scaling")


def wait_for(path: str) -> int:
    while not os.path.exists(path):
        time.sleep(0.005)
    return os.getpid()


@app.function(scaledown_window=120)
def plain(number: int) -> int:
    return number + 1


@app.cls(max_pods=3, scaledown_window=120)
class Holder:
    folder: str = deepserve.parameter()

    @deepserve.method()
    def hold(self, name: str) -> int:
        return wait_for(f"{self.folder}/{name}")

    @deepserve.exit()
    def note_end(self) -> None:
        Path(self.folder, f"ended-{os.getpid()}").touch()


@app.function(max_pods=4, scaledown_window=120)
@deepserve.concurrent(max_inputs=4, target_inputs=1)
def hold(path: str) -> int:
    return wait_for(path)
