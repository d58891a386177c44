"""PrefixIndex: which full blocks hold the KV of which prefix, and in which tiers. Pure.

A tree whose edges are the exact tokens of one block, so that two prefixes are never confused (a hash could collide).
Each tenant (`cache_salt`) has a tree of its own: nobody can tell from a hit what others have asked.
"""

from __future__ import annotations

from array import array
from collections import OrderedDict
from dataclasses import dataclass, field
from hashlib import blake2b

from .moves import Tier


@dataclass(slots=True, eq=False)
class Node:
    """One full block and the tokens in it, below the node of the tokens before.

    salt: the tenant's.  digest: a name for all tokens up to the last of this block (see `block_hashes`).
    block, host, file: its slot in each tier; None where it is not.  arriving: a move still fills `block`.
    attached: part of the tree; once detached, it never is again.
    A node is never in a slower tier than one of its descendants: the way from the root to any of them begins on the
    device, may go on in the host's memory and ends in the file.
    """

    tokens: tuple[int, ...]
    parent: Node | None
    salt: str | None
    digest: bytes
    block: int | None = None
    host: int | None = None
    file: int | None = None
    arriving: bool = False
    attached: bool = True
    children: dict[tuple[int, ...], Node] = field(default_factory=dict)

    @property
    def tier(self) -> Tier:
        """The fastest tier that has it (or gets it: see `arriving`)."""
        if self.block is not None:
            return Tier.DEVICE
        return Tier.HOST if self.host is not None else Tier.FILE

    @property
    def is_ready(self) -> bool:
        return self.block is not None and not self.arriving


class PrefixIndex:
    """Nodes by tokens and by device block. Whoever uses a node's block uses those of all its ancestors too.

    From that follows what eviction relies on: among unused nodes, children come before their parents.  is_windowed:
    that is not so, because a sequence that has outgrown its model's window lets go of its first blocks first.
    """

    def __init__(self, block_size: int, is_windowed: bool = False) -> None:
        self.block_size = block_size
        self._is_windowed = is_windowed
        self._roots: dict[str | None, Node] = {}
        self._by_block: dict[int, Node] = {}
        self._unused: OrderedDict[int, Node] = OrderedDict()  # least recently used first

    def __contains__(self, block: int) -> bool:
        return block in self._by_block

    def __len__(self) -> int:
        """Nodes on the device."""
        return len(self._by_block)

    @property
    def num_unused(self) -> int:
        return len(self._unused)

    def match(self, token_ids: list[int], max_tokens: int, salt: str | None = None) -> list[Node]:
        """Nodes of the longest known prefix of at most `max_tokens` tokens, in order."""
        nodes: list[Node] = []
        node = self._roots.get(salt)
        for start in range(0, max_tokens - self.block_size + 1, self.block_size):
            node = node.children.get(tuple(token_ids[start : start + self.block_size])) if node else None
            if node is None:
                break
            nodes.append(node)
        return nodes

    def child(self, parent: Node | None, tokens: tuple[int, ...], salt: str | None) -> Node | None:
        """The node for these tokens below `parent` (None = start of the prompt)."""
        parent = parent or self._roots.get(salt)
        return parent.children.get(tokens) if parent else None

    def insert(self, parent: Node | None, tokens: tuple[int, ...], salt: str | None) -> Node:
        """A new node, in no tier yet; `place` puts it on the device."""
        if parent is None:
            parent = self._roots.setdefault(salt, Node((), None, salt, _root_digest(salt)))
        node = Node(tokens, parent, salt, _chained(parent.digest, tokens))
        parent.children[tokens] = node
        return node

    def place(self, node: Node, block: int) -> None:
        """The node is on the device from now on, and somebody uses it."""
        assert node.attached and node.block is None and block not in self._by_block
        node.block = block
        self._by_block[block] = node

    def displace(self, node: Node) -> int:
        """The node is on the device no more; returns its block."""
        assert node.block is not None
        block, node.block = node.block, None
        node.arriving = False
        del self._by_block[block]
        self._unused.pop(block, None)
        return block

    def detach(self, node: Node) -> list[Node]:
        """Forget a node and all below it; returns them, descendants first, with their slots still noted in them."""
        detached: list[Node] = []
        stack = [node]
        while stack:
            each = stack.pop()
            each.attached = False
            detached.append(each)
            stack += each.children.values()
        parent = node.parent
        assert parent is not None
        del parent.children[node.tokens]
        if parent.parent is None and not parent.children:
            del self._roots[parent.salt]
        return detached[::-1]

    def nodes(self) -> list[Node]:
        """All nodes of all tiers, parents first."""
        found: list[Node] = []
        stack = list(self._roots.values())
        while stack:
            node = stack.pop()
            found += node.children.values()
            stack += node.children.values()
        return found

    def node(self, block: int) -> Node:
        return self._by_block[block]

    def set_used(self, block: int) -> None:
        self._unused.pop(block, None)

    def set_unused(self, block: int) -> None:
        """Nobody uses the block any more: it may be evicted, after all that became unused before."""
        self._unused[block] = self._by_block[block]
        self._unused.move_to_end(block)

    def least_recently_used(self) -> Node:
        """The unused node that leaves the device next. There must be one (`num_unused`)."""
        return next(iter(self._unused.values()))

    def is_unused(self, block: int) -> bool:
        return block in self._unused

    def check_invariants(self) -> None:
        seen: set[int] = set()
        for block, node in self._unused.items():
            assert self._by_block[block] is node
            for child in node.children.values():
                assert self._is_windowed or child.block is None or child.block in seen, "a parent would leave first"
            seen.add(block)
        nodes = self.nodes()
        assert {id(node) for node in nodes if node.block is not None} == {id(n) for n in self._by_block.values()}
        for block, node in self._by_block.items():
            assert node.block == block
        for node in nodes:
            parent = node.parent
            assert node.attached and parent is not None and parent.children[node.tokens] is node
            assert node.block is not None or node.host is not None or node.file is not None, "a node in no tier"
            assert node.block is not None or not node.arriving
            assert parent.parent is None or parent.tier <= node.tier, "a node is faster to reach than its prefix"
            assert parent.parent is None or not parent.arriving or not node.is_ready
        assert all(root.children for root in self._roots.values())


def block_hashes(token_ids: list[int], block_size: int, salt: str | None = None) -> list[str]:
    """The names of all whole-block prefixes of a prompt, shortest first: `Relocation.prefix` says which one moved.

    The same in every process, so that a router can remember by name what an engine holds.
    """
    digest, names = _root_digest(salt), []
    for start in range(0, len(token_ids) - block_size + 1, block_size):
        digest = _chained(digest, tuple(token_ids[start : start + block_size]))
        names.append(digest.hex())
    return names


def _root_digest(salt: str | None) -> bytes:
    return b"" if salt is None else blake2b(salt.encode("utf-8", "surrogatepass"), digest_size=16).digest()


def _chained(digest: bytes, tokens: tuple[int, ...]) -> bytes:
    return blake2b(digest + array("q", tokens).tobytes(), digest_size=16).digest()
