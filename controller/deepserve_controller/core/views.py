"""What policies may see, what they answer, and what `status` shows; all read-only.

`policies` import this file and the cores import this file, so no core knows a policy.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from random import Random
from typing import Literal, NamedTuple, Protocol

import msgspec

from deepserve.protocol.prompt_blocks import PromptBlocks
from deepserve.protocol.specs import ExecutorKind, RetrySpec

# --- routing ------------------------------------------------------------------------------------------


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


# --- retries ------------------------------------------------------------------------------------------

RetryDelay = Callable[[RetrySpec, int, Random], float]
"""Seconds to wait before retry number n (1, 2, ...)."""

# --- maps ---------------------------------------------------------------------------------------------


class MapLoad(NamedTuple):
    """A map's inputs that wait, and the slots of its function's bound pods. Seconds; 0 unknown, or no limit."""

    waiting: int
    slots: int
    mean_run_s: float
    limit_s: float


class ChunkSize(NamedTuple):
    inputs: int
    reason: str


Chunking = Callable[[MapLoad], ChunkSize]
"""How many inputs of a map go to a pod that has a free slot: at least 1."""

# --- scaling ------------------------------------------------------------------------------------------


class Panic(NamedTuple):
    """What a function remembers of a burst: while it lasts, no pod is given up. `pods` 0: there is none."""

    since_s: float = 0.0
    over_s: float = 0.0
    """When demand was last far beyond the pods."""
    pods: int = 0
    """The most that were needed since it began."""


NO_PANIC = Panic()


class TokenLoad(NamedTuple):
    """What a model's engines have to do, in tokens, and how fast they are; 0 where nothing is known yet.

    queued, prefill: of prompts that wait for an engine, and that engines have not computed. decode_blocks: KV blocks of
    running tasks. prompt_tokens_per_s: of one engine. late_s: how much later first tokens came than their own prompts
    take, the 95th percentile of the last half minute; step_s: between two tokens, lately. arrivals: tokens of prompts
    a second, by windows of the past, the latest last.
    """

    queued: int = 0
    prefill: int = 0
    decode_blocks: int = 0
    prompt_tokens_per_s: float = 0.0
    late_s: float = 0.0
    step_s: float = 0.0
    arrivals: tuple[float, ...] = ()


class FunctionLoad(NamedTuple):
    """One function's demand and pods. `max_pods` is resolved: never 0 for "the host's default"."""

    queued: int
    running: int
    slots: int
    """Tasks of one pod that scaling aims at (`target_inputs`)."""
    min_pods: int
    max_pods: int
    buffer_pods: int
    pods: int = 0
    """Starting, binding and bound ones; not those that drain."""
    ready_pods: int = 0
    recent_pods: int = 0
    """Pods in use now or at some time within the function's scale-down window."""
    stable_pods: float = 0.0
    """Pods in use on average over the autoscaler's stable window."""
    panic_pods: float = 0.0
    """The same over its panic window."""
    panic: Panic = NO_PANIC
    tokens: TokenLoad | None = None
    """Of a model, where it is known."""
    start_s: float = 0.0
    """Of a model: what it is likely to take its next pod to get ready; 0 unknown."""
    age_s: float = math.inf
    """Since this controller knows of the function."""


class PodsWanted(NamedTuple):
    pods: int
    reason: str
    panic: Panic = NO_PANIC
    needed: int = 0
    """By what is measured now, where that is more than tasks and slots tell: counts as pods in use."""


class Autoscaler(Protocol):
    """How many pods a function should have. The windows say which averages `decide` is to be given."""

    @property
    def stable_window_s(self) -> float: ...
    @property
    def panic_window_s(self) -> float: ...
    def decide(self, load: FunctionLoad, now_s: float) -> PodsWanted: ...


class PoolUse(NamedTuple):
    """What the pods of one environment did lately."""

    environment: str
    cold_starts: int = 0
    """Pods that had to be started while somebody waited, within the policy's memory."""
    taken: int = 0
    """The most warm pods that one burst took, within the same time."""


class Prewarm(Protocol):
    """How many unbound pods of an environment to keep started."""

    @property
    def memory_s(self) -> float: ...
    def decide(self, use: PoolUse) -> PodsWanted: ...


class ScalingDecision(NamedTuple):
    """One change of a function's pods, or what kept it from changing."""

    at_s: float
    from_pods: int
    to_pods: int
    reason: str
    ready: int
    starting: int
    draining: int
    queued: int
    running: int


# --- memory that others need --------------------------------------------------------------------------


class IdlePod(NamedTuple):
    """A bound pod without a task, whose memory somebody needs."""

    pod_id: str
    kind: ExecutorKind
    is_asleep: bool
    idle_s: float
    """Since its last task."""


class Parking(NamedTuple):
    """level: of sleep, 1 with its weights within reach, 2 without; 0 ends the pod."""

    level: int
    reason: str


ChooseParking = Callable[[IdlePod], Parking]
"""What becomes of an idle pod that is to give its memory: it sleeps, or it ends."""

# --- where pods come from ---------------------------------------------------------------------------


class TemplateView(NamedTuple):
    """A function whose pods may be forked from a template of its own.

    is_shared: all are to come from it (see FunctionSpec).  state: of its template.  refusal: why it can have none, or
    empty.  missing: pods to start now, beside `num_pods` that are there, of which `num_bound` have loaded the
    function.  load_ms: what loading it took lately.
    """

    is_shared: bool
    state: Literal["none", "loading", "ready"]
    refusal: str
    missing: int
    num_pods: int
    num_bound: int
    max_pods: int
    load_ms: float


class PodSource(NamedTuple):
    """Start `pods` now, from the function's template or else from its environment's, and load a template if told so.

    What is missing beyond `pods` waits for that template.
    """

    pods: int
    is_from_template: bool
    is_template_wanted: bool
    reason: str
    template_id: str = ""
    """Filled in by the core, where `is_from_template`."""


ChooseSource = Callable[[TemplateView], PodSource]

# --- migration --------------------------------------------------------------------------------------


class MigrationRound(NamedTuple):
    """Round number `round` is over: so many tokens have come meanwhile, and in the round before."""

    round: int
    gap_tokens: int
    last_gap_tokens: int


class MigrationStep(NamedTuple):
    """Swap now, or prefill what has come in another round."""

    is_swap: bool
    reason: str


DecideMigration = Callable[[MigrationRound], MigrationStep]

# --- devices ----------------------------------------------------------------------------------------


class Device(NamedTuple):
    """An NPU or GPU of the host. id: as `VISIBLE_DEVICES` names it. model: in lower case, empty where unknown.

    engine: where it is only pretended, the device on which models that hold it compute.
    """

    kind: str
    id: str
    model: str = ""
    engine: str = ""

    @property
    def place(self) -> str:
        """Devices of one place stand for each other."""
        return f"{self.kind}:{self.model}" if self.model else self.kind

    @property
    def names(self) -> list[str]:
        """Of its model, any of which will do: an h100-80gb-hbm3 is an h100."""
        return self.model.split("-")


class Allotment(NamedTuple):
    """What a pod holds. accelerator: the choice of its function's that it is, as it was written. engine: see Device."""

    accelerator: str = ""
    kind: str = ""
    ids: tuple[str, ...] = ()
    engine: str = ""


class HeldTemplate(NamedTuple):
    """A template that has no pod now, and what it keeps in memory for the next.

    uses: pods forked from templates of its function, those of the past counted less and less.  load_ms: what loading
    took.
    """

    held_mib: int
    uses: float
    load_ms: float


KeepWorth = Callable[[HeldTemplate], float]
"""Where memory is short, those worth the least go first."""


# --- status -------------------------------------------------------------------------------------------


class PodView(msgspec.Struct, frozen=True):
    pod_id: str
    state: str
    environment: str
    function_id: str
    label: str
    pid: int
    slots: int
    is_busy: bool
    started_s: float
    since_s: float
    """Since when it is in this state."""
    reason: str
    """Of the last decision about it."""
    is_asleep: bool = False
    """It has given back memory until its next task."""
    devices: Allotment = Allotment()


class FunctionView(msgspec.Struct, frozen=True):
    function_id: str
    label: str
    pods: int
    pods_wanted: int
    queued: int
    reason: str
    running: int = 0
    ready: int = 0
    starting: int = 0
    draining: int = 0
    min_pods: int = 0
    max_pods: int = 0
    buffer_pods: int = 0
    scaledown_window_s: float = 0.0
    pod_source: str = ""
    """Where its pods come from, and why."""
    broken_because: str = ""
    """Why its code could last not be loaded; empty since it could."""


def pod_order(pod_id: str) -> tuple[int, str]:
    """Sorts `pod-9` before `pod-10`: ids of one allocator in the order in which they were given."""
    return len(pod_id), pod_id
