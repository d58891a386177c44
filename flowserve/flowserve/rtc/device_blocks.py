"""DeviceBlocks: the blocks of the device, free, held or preserved, and what happens when they run out. Pure."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from .blocks import BlockPool
from .index import Node, PrefixIndex
from .moves import Tier
from .stats import CacheStats
from .tiers import LowerTiers

MAX_RELOCATIONS_NOTED = 4096


@dataclass(frozen=True, slots=True)
class Relocation:
    """The KV of a prefix is in another tier. prefix: its name (`block_hashes`).  tier: where it is now, None = gone."""

    prefix: str
    tier: Tier | None


class DeviceBlocks:
    """Holders (sequences, populates, contexts) count as references, and so does the index for each node it has here.

    A block is given to somebody new only when nobody holds it; then what it preserved moves down a tier, or is
    forgotten.
    """

    def __init__(
        self, num_blocks: int, block_size: int, num_host_blocks: int, num_file_blocks: int, is_windowed: bool = False
    ) -> None:
        self.pool = BlockPool(num_blocks)
        self.index = PrefixIndex(block_size, is_windowed)
        self.tiers = LowerTiers(num_host_blocks, num_file_blocks, self.forget)
        self.stats = CacheStats()
        self.relocations: deque[Relocation] = deque(maxlen=MAX_RELOCATIONS_NOTED)

    @property
    def num_free(self) -> int:
        """Blocks that can be handed out now: free ones and preserved ones that nobody holds."""
        return self.pool.num_free + self.index.num_unused

    def num_for(self, num_tokens: int) -> int:
        return -(-num_tokens // self.index.block_size)

    def take(self) -> int:
        """A block with one holder. The caller has checked `num_free`."""
        if self.pool.num_free == 0:
            self._evict()
        return self.pool.take()

    def hold(self, block: int) -> None:
        self.index.set_used(block)
        self.pool.share(block)

    def let_go(self, block: int) -> None:
        if self.pool.release(block) == 1 and block in self.index:
            self.index.set_unused(block)

    def preserve(self, node: Node, block: int) -> None:
        """A held block is that of a node from now on."""
        self.index.place(node, block)
        self.pool.share(block)
        self.relocations.append(Relocation(node.digest.hex(), Tier.DEVICE))

    def forget(self, node: Node) -> None:
        """Take a node and all below it out of the index; their blocks stay with whoever holds them."""
        for each in self.index.detach(node):
            if each.block is not None:
                self.pool.release(self.index.displace(each))
            self.tiers.drop(each)
            self._note(each, None)

    def forget_all(self) -> None:
        for node in self.index.nodes():
            if node.attached:
                self.forget(node)

    def leave(self, num_blocks: int) -> None:
        """Give up so many preserved blocks that nobody holds, as if their room were needed."""
        for _ in range(num_blocks):
            if self.index.num_unused:
                self._evict()

    def check_invariants(self, holders: list[int]) -> None:
        """holders: per block, how many hold it beside the index."""
        self.pool.check_invariants()
        self.index.check_invariants()
        self.tiers.check_invariants()
        for block, num_holders in enumerate(holders):
            indexed = block in self.index
            assert self.pool.references(block) == num_holders + indexed, f"block {block} is miscounted"
            assert self.index.is_unused(block) == (indexed and num_holders == 0)

    def _evict(self) -> None:
        node = self.index.least_recently_used()
        if any(child.block is not None for child in node.children.values()):
            self.forget(node)  # the start of what lies behind a window: without it the rest is found no more
            return
        is_kept = self.tiers.exist and self.tiers.keep(node)
        self.pool.release(self.index.displace(node))
        if is_kept:
            self._note(node, node.tier)
        else:
            self.forget(node)

    def _note(self, node: Node, tier: Tier | None) -> None:
        self.relocations.append(Relocation(node.digest.hex(), tier))
        if tier is None:
            self.stats.forgotten_blocks += 1
        else:
            self.stats.demoted_blocks += 1
