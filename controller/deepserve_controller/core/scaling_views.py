"""What autoscalers and pre-warming may see of the demand for pods, and what they answer; read-only."""

from __future__ import annotations

import math
from typing import NamedTuple, Protocol


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
