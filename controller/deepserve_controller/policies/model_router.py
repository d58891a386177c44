"""Model router: which engine of a model takes a prompt."""

from __future__ import annotations

import math
from _blake2 import blake2b  # hashlib loads OpenSSL: see protocol/digest.py
from collections.abc import Sequence

import msgspec

from deepserve.protocol.prompt_blocks import NAME_BYTES, PromptBlocks
from deepserve_controller.core.routing_views import EngineView, Routed

RING_BLOCKS = 4
"""Prompts that share so many leading blocks belong together where nothing is known of caches."""


class BlockCost(msgspec.Struct, frozen=True):
    """The least work, in KV blocks, with a preference for the engine that holds the prompt's beginning.

    - Cost of an engine (NVIDIA Dynamo's linear form): blocks of prompts that it has to compute, this one's among them,
      less what it need not compute, weighted by the tier that this lies in; plus the blocks that its tasks hold, with
      this one's. The prompt tree says what it holds (DeepServe 2.11, locality-aware; the rest is its load-aware part).
    - Affinity gate (llm-d): of engines that hold at least `affinity` of the prompt the cheapest is taken, also where
      another is cheaper, by up to `penalty_blocks`; beyond that the gate opens. By chance (`exploration`) it is
      skipped, so that caches spread.
    - Where no engine tells what it holds: consistent hashing with bounded loads (KubeAI), by rendezvous instead of a
      ring: prompts with the same beginning meet on one engine until it has `load_bound` times the mean load.

    Of equals the first id, so that engines with high ids fall idle and can be given up.
    """

    prefill_scale: float = 1.0
    device_credit: float = 1.0
    host_credit: float = 0.75
    file_credit: float = 0.25
    affinity: float = 0.8
    exploration: float = 0.01
    penalty_blocks: float = 16.0
    load_bound: float = 1.25

    def choose(self, engines: Sequence[EngineView], prompt: PromptBlocks | None, draw: float) -> Routed | None:
        free = [engine for engine in engines if engine.load < engine.slots]
        if not free:
            return None
        if prompt is None:
            return least_load(free)
        if prompt.names and not any(engine.has_reported for engine in engines):
            return self._bounded(free, prompt)
        costs = {engine.pod_id: self.cost(engine, prompt.num_blocks) for engine in free}
        best = min(free, key=lambda engine: costs[engine.pod_id])
        num_named = len(prompt.names) // NAME_BYTES
        holders = [engine for engine in free if num_named and engine.matched >= self.affinity * num_named]
        if holders and draw >= self.exploration:
            holder = min(holders, key=lambda engine: costs[engine.pod_id])
            if costs[holder.pod_id] - costs[best.pod_id] <= self.penalty_blocks:
                return Routed(
                    holder.pod_id,
                    f"holds {holder.matched} of {prompt.num_blocks} blocks, costs {costs[holder.pod_id]:.4g}"
                    f" (least {costs[best.pod_id]:.4g})",
                )
        text = f"least cost: {costs[best.pod_id]:.4g} blocks, {best.matched} of {prompt.num_blocks} held"
        return Routed(best.pod_id, text)

    def cost(self, engine: EngineView, prompt_blocks: int) -> float:
        credit = (
            self.device_credit * engine.device + self.host_credit * engine.host + self.file_credit * engine.file
        )  # fmt: skip
        prefill = max(0.0, engine.prefill_blocks + prompt_blocks - credit)
        return self.prefill_scale * prefill + engine.decode_blocks + prompt_blocks

    def _bounded(self, free: Sequence[EngineView], prompt: PromptBlocks) -> Routed:
        most = math.ceil(self.load_bound * (sum(engine.load for engine in free) + 1) / len(free))
        key = prompt.names[: RING_BLOCKS * NAME_BYTES]
        ranked = sorted(free, key=lambda engine: blake2b(engine.pod_id.encode(), key=key, digest_size=8).digest())
        for engine in ranked:
            if engine.load < most:
                return Routed(engine.pod_id, f"by the prompt's beginning: load {engine.load}, below {most}")
        return least_load(free)


class RoundRobin:
    """The baseline of ServerlessLLM's router: engines take turns, whatever they hold."""

    def __init__(self) -> None:
        self._num_chosen = 0

    def choose(self, engines: Sequence[EngineView], prompt: PromptBlocks | None, draw: float) -> Routed | None:
        free = [engine for engine in engines if engine.load < engine.slots]
        if not free:
            return None
        self._num_chosen += 1
        return Routed(free[self._num_chosen % len(free)].pod_id, "its turn")


def least_load(free: Sequence[EngineView]) -> Routed:
    best = min(free, key=lambda engine: (engine.load, engine.prefill_blocks + engine.decode_blocks))
    return Routed(best.pod_id, f"least loaded: {best.load} of {best.slots} slots")
