"""Engines whose weights come through a gate, in tests."""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np

from flowserve import SamplingParams
from flowserve.engine import Engine
from flowserve.errors import LoadingError
from flowserve.outputs import SequenceOutput
from tests.waiting import wait_for

GREEDY = SamplingParams(temperature=0, max_tokens=6, ignore_eos=True)
WAIT_S = 30.0


class Gate:
    """Bytes pass it only as far as it was opened; where `breaks_at` is reached, the disk is broken."""

    def __init__(self) -> None:
        self.changed = threading.Condition()
        self.open_through = 0
        self.breaks_at: int | None = None

    def let_pass(self, path: Path, offset: int, size: int) -> None:
        with self.changed:
            while offset + size > self.open_through:
                if self.breaks_at is not None and offset + size > self.breaks_at:
                    raise LoadingError(f"{path}: cannot be read at byte {offset}: Input/output error")
                self.changed.wait(WAIT_S)

    def open(self, through: int) -> None:
        with self.changed:
            self.open_through = through
            self.changed.notify_all()

    def break_down(self) -> None:
        with self.changed:
            self.breaks_at = self.open_through
            self.changed.notify_all()


def run(engine: Engine) -> list[SequenceOutput]:
    engine.add("a", [5, 6, 7, 8], GREEDY)
    outputs: list[SequenceOutput] = []
    while engine.has_work:
        outputs += engine.step()
    return outputs


def tokens_of(outputs: list[SequenceOutput]) -> list[int]:
    return [token for output in outputs for token in output.token_ids]


def wait_until_computed(engine: Engine, layer: int) -> list[bool]:
    """Which layers have keys in the first KV block, once `layer` has.

    The test sleeps between its looks: one that never gives up the interpreter keeps it from the thread of the steps.
    """
    wait_for(lambda: written_layers(engine)[layer], WAIT_S)
    return written_layers(engine)


def written_layers(engine: Engine) -> list[bool]:
    storage = engine._hold.runner.storage
    block = bytearray(storage.block_bytes)
    storage.read_block(0, memoryview(block))
    layers = np.frombuffer(block, np.uint8).reshape(engine.model_config.num_layers, -1)
    return [bool(layer.any()) for layer in layers]
