"""BlockPool: reference counts of KV blocks. Pure."""

from __future__ import annotations

from collections import deque

from ..errors import InvalidConfigError


class BlockPool:
    """Blocks 0 .. num_blocks - 1, each free or held by one or more holders.

    Never used blocks are handed out in order, so a lone sequence's blocks are neighbours and its KV one plain view.
    They are not listed, so a pool takes memory for as many as were used.
    """

    def __init__(self, num_blocks: int) -> None:
        if num_blocks < 1:
            raise InvalidConfigError(f"a block pool needs at least one block, got {num_blocks}")
        self.num_blocks = num_blocks
        self._references: list[int] = []  # of those that were used
        self._free: deque[int] = deque()  # of those, too

    @property
    def num_free(self) -> int:
        return self.num_blocks - len(self._references) + len(self._free)

    @property
    def num_used(self) -> int:
        """Blocks from 0 on that were handed out once."""
        return len(self._references)

    def references(self, block: int) -> int:
        return self._references[block] if block < len(self._references) else 0

    def take(self) -> int:
        """A free block with one reference. The caller has checked `num_free`."""
        if len(self._references) < self.num_blocks:
            self._references.append(1)
            return len(self._references) - 1
        block = self._free.popleft()
        self._references[block] = 1
        return block

    def share(self, block: int) -> None:
        """One more holder of a block that has one."""
        assert self.references(block) > 0, f"block {block} is free"
        self._references[block] += 1

    def release(self, block: int) -> int:
        """One holder less; returns how many are left. At zero the block is free."""
        assert self.references(block) > 0, f"block {block} is free"
        self._references[block] -= 1
        if self._references[block] == 0:
            self._free.append(block)
        return self._references[block]

    def check_invariants(self) -> None:
        assert all(count >= 0 for count in self._references)
        assert len(set(self._free)) == len(self._free)
        assert set(self._free) == {block for block, count in enumerate(self._references) if count == 0}
