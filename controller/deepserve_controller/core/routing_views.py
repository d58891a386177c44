"""What routing may see of pods and engines, and what it answers; read-only."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple, Protocol

from deepserve.protocol.prompt_blocks import PromptBlocks


class ExecutorLoad(Protocol):
    """One bound pod, as routing sees it. `load` counts the tasks that hold a slot."""

    @property
    def pod_id(self) -> str: ...
    @property
    def slots(self) -> int: ...
    @property
    def load(self) -> int: ...


class Routed(NamedTuple):
    pod_id: str
    reason: str


Routing = Callable[[Iterable[ExecutorLoad]], Routed | None]
"""Chooses among a function's routable pods, given in the order of their ids; None where none has room."""


class EngineView(NamedTuple):
    """One engine of a model, as routing sees it before a prompt is sent there. Sizes in KV blocks.

    prefill_blocks: of prompts that it still has to compute. decode_blocks: that its tasks fill. device, host, file:
    leading blocks of this prompt that it has, by tier. has_reported: it tells what it holds.
    """

    pod_id: str
    slots: int
    load: int
    prefill_blocks: int = 0
    decode_blocks: int = 0
    device: int = 0
    host: int = 0
    file: int = 0
    has_reported: bool = False

    @property
    def matched(self) -> int:
        return self.device + self.host + self.file


class ModelRouting(Protocol):
    """Which engine takes a prompt; None where none has room. `draw`: a number in [0, 1), the only chance there is."""

    def choose(self, engines: Sequence[EngineView], prompt: PromptBlocks | None, draw: float) -> Routed | None: ...
