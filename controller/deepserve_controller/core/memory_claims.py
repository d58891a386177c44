"""MemoryClaims: what each pod may take of the host's memory, decided before it starts (docs/decisions/0020)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from deepserve.protocol.messages import PodMemory
from deepserve.protocol.specs import FunctionSpec

ASSUMED_MIB: Mapping[str, int] = {"python": 16, "tokenizer": 64, "flowserve": 256}
"""What a pod without a limit of its own is taken to use beyond what it shares with its template, by environment."""

SHARES = 8
"""One pod's KV takes no more than such a part of the host: the rest is for others."""
NUM_NEEDS = 500


class MemoryNeed(NamedTuple):
    """Of a pod, in MiB. base: without KV. kv: what a model's KV cache takes where there is plenty. least_kv: what a
    sequence of its whole context needs."""

    base_mib: int
    least_kv_mib: int = 0
    kv_mib: int = 0

    @property
    def least_mib(self) -> int:
        return self.base_mib + self.least_kv_mib


class MemoryClaim(NamedTuple):
    """Of a pod, from when it is ordered until it is gone, in MiB. kv: the bound of its KV cache; 0 where it has none
    that was told."""

    base_mib: int
    kv_mib: int = 0

    @property
    def total_mib(self) -> int:
        return self.base_mib + self.kv_mib

    @property
    def kv_bytes(self) -> int:
        return self.kv_mib << 20


class NeedView(NamedTuple):
    """For people, in MiB. pod: without KV.  kv: as much as a pod takes where there is plenty.  weights: shared by its
    pods; 0 where none are held."""

    pod_mib: int
    least_kv_mib: int
    kv_mib: int
    weights_mib: int


def divide(need: MemoryNeed, left_mib: int, num_to_come: int, usable_mib: int) -> MemoryClaim | None:
    """Of what is left of `usable_mib`, for the next of so many pods of a function; None where it is too little for it.

    KV gets an even share of what they all may have, as many of them as fit, so that none takes what a later one needs
    at least; and no more than an eighth of the host.
    """
    if left_mib < need.least_mib:
        return None
    number = max(1, min(num_to_come, left_mib // max(1, need.least_mib)))
    share_mib = min(left_mib // number - need.base_mib, usable_mib // SHARES)
    return MemoryClaim(need.base_mib, min(need.kv_mib, max(need.least_kv_mib, share_mib)))


class MemoryClaims:
    """What is known of the needs of functions, by their id. Who loads a model first tells them."""

    def __init__(self) -> None:
        self._needs: dict[str, MemoryNeed] = {}

    def learn(self, function_id: str, environment: str, memory: PodMemory) -> None:
        """Of any pod of it."""
        if memory == PodMemory():
            return
        base_mib = mebibytes(memory.private_bytes) or assumed_mib(environment)
        least_kv_mib = mebibytes(memory.least_kv_bytes)
        kv_mib = max(mebibytes(memory.kv_bytes), least_kv_mib)
        self._needs[function_id] = MemoryNeed(base_mib, least_kv_mib, kv_mib)
        while len(self._needs) > NUM_NEEDS:
            del self._needs[next(iter(self._needs))]

    def forget(self, function_id: str) -> None:
        self._needs.pop(function_id, None)

    def knows(self, function_id: str) -> bool:
        return function_id in self._needs

    def need(self, function_id: str, spec: FunctionSpec) -> MemoryNeed:
        """A `memory=` says all there is to say; of what is not known yet the environment's is assumed."""
        if memory_mib := spec.resources.memory_mib:
            return MemoryNeed(memory_mib)
        return self._needs.get(function_id) or MemoryNeed(assumed_mib(spec.environment))


def assumed_mib(environment: str) -> int:
    return ASSUMED_MIB.get(environment, ASSUMED_MIB["python"])


def mebibytes(size_bytes: int) -> int:
    """Rounded up."""
    return -(-size_bytes >> 20)
