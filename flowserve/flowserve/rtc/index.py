"""PrefixIndex: which full blocks hold the KV of which prefix. Pure.

A tree whose edges are the exact tokens of one block, so that two prefixes are never confused (a hash could collide).
A node lives as long as it is not evicted; nodes that no sequence uses leave in least-recently-used order.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field


@dataclass(slots=True, eq=False)
class Node:
    """One full block and the tokens in it, below the node of the tokens before."""

    tokens: tuple[int, ...]
    block: int
    parent: Node | None
    children: dict[tuple[int, ...], Node] = field(default_factory=dict)


class PrefixIndex:
    """Nodes by tokens and by block. Whoever uses a node's block uses those of all its ancestors too.

    From that follows what eviction relies on: among unused nodes, children come before their parents.
    """

    def __init__(self, block_size: int) -> None:
        self.block_size = block_size
        self._root = Node((), -1, None)
        self._by_block: dict[int, Node] = {}
        self._unused: OrderedDict[int, Node] = OrderedDict()  # least recently used first

    def __contains__(self, block: int) -> bool:
        return block in self._by_block

    def __len__(self) -> int:
        return len(self._by_block)

    @property
    def num_unused(self) -> int:
        return len(self._unused)

    def match(self, token_ids: list[int], max_tokens: int) -> list[int]:
        """Blocks of the longest known prefix of at most `max_tokens` tokens, in order."""
        blocks = []
        node: Node | None = self._root
        for start in range(0, max_tokens - self.block_size + 1, self.block_size):
            node = node.children.get(tuple(token_ids[start : start + self.block_size])) if node else None
            if node is None:
                break
            blocks.append(node.block)
        return blocks

    def insert(self, parent: Node | None, tokens: tuple[int, ...], block: int) -> Node:
        """The node for these tokens below `parent` (None = start of the prompt): a known one, or a new one on `block`.

        The caller compares `node.block` with its own: if they differ, the same tokens were computed twice.
        """
        parent = parent or self._root
        node = parent.children.get(tokens)
        if node is None:
            node = Node(tokens, block, parent)
            parent.children[tokens] = node
            self._by_block[block] = node
        return node

    def node(self, block: int) -> Node:
        return self._by_block[block]

    def set_used(self, block: int) -> None:
        self._unused.pop(block, None)

    def set_unused(self, block: int) -> None:
        """No sequence uses the block any more: it may be evicted, after all that became unused before."""
        self._unused[block] = self._by_block[block]
        self._unused.move_to_end(block)

    def evict(self) -> int:
        """Forget the least recently used unused node and return its block. There must be one (`num_unused`)."""
        block, node = self._unused.popitem(last=False)
        assert not node.children and node.parent is not None
        del node.parent.children[node.tokens]
        del self._by_block[block]
        return block

    def is_unused(self, block: int) -> bool:
        return block in self._unused

    def check_invariants(self) -> None:
        seen: set[int] = set()
        for block, node in self._unused.items():
            assert self._by_block[block] is node
            assert all(child.block in seen for child in node.children.values()), "a parent would leave before its child"
            seen.add(block)
        for block, node in self._by_block.items():
            assert node.block == block and node.parent is not None
            assert node.parent.children[node.tokens] is node
            assert node.parent is self._root or node.parent.block in self._by_block
