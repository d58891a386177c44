"""ContextBook: prompt starts kept by name for a while (DeepServe's explicit context caching). Pure.

A context is its tokens, so that using it never depends on what is cached; its blocks are pinned on the device as far
as the share of contexts allows. What is not pinned is preserved like any other prefix, or computed again.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field

from ..errors import InvalidContextError, UnknownContextError
from .device_blocks import DeviceBlocks


@dataclass(slots=True, eq=False)
class Context:
    """ttl_s: how long it lives after its last use.  blocks: those pinned, a prefix of its own."""

    context_id: str
    salt: str | None
    token_ids: tuple[int, ...]
    ttl_s: float
    expires_s: float
    blocks: list[int] = field(default_factory=list)


class ContextBook:
    """Contexts by tenant and id, least recently used first. Times are in the caller's clock, in seconds."""

    def __init__(self, blocks: DeviceBlocks, share: float) -> None:
        self._blocks = blocks
        self._contexts: OrderedDict[tuple[str | None, str], Context] = OrderedDict()
        self._num_pins: dict[int, int] = {}  # by block
        self._max_pinned = int(blocks.pool.num_blocks * share)
        self._next_expiry_s = float("inf")  # none ends before; a context that was used or deleted may end later

    def __len__(self) -> int:
        return len(self._contexts)

    @property
    def num_pinned_blocks(self) -> int:
        return len(self._num_pins)

    def preserve(
        self, context_id: str, token_ids: list[int], ttl_s: float, now_s: float, salt: str | None = None
    ) -> Context:
        """Keep these tokens under an id that the tenant may have used before (it then names the new ones).

        Raises InvalidContextError for an empty id, no tokens or a time to live that is not above 0.
        """
        check_context(context_id, ttl_s)
        if not token_ids:
            raise InvalidContextError(f"context {context_id!r} has no tokens")
        if (salt, context_id) in self._contexts:
            self._remove(salt, context_id)
        context = Context(context_id, salt, tuple(token_ids), ttl_s, now_s + ttl_s)
        self._contexts[salt, context_id] = context
        self._next_expiry_s = min(self._next_expiry_s, context.expires_s)
        self._pin(context)
        return context

    def holds(self, context_id: str, token_ids: list[int], salt: str | None = None) -> bool:
        """Whether the context is there, with these tokens."""
        context = self._contexts.get((salt, context_id))
        return context is not None and context.token_ids == tuple(token_ids)

    def use(self, context_id: str, now_s: float, salt: str | None = None) -> Context:
        """The context of an id; it lives on for its `ttl_s` from now. Raises UnknownContextError."""
        self.expire(now_s)
        context = self._contexts.get((salt, context_id))
        if context is None:
            raise UnknownContextError(f"no context {context_id!r}: it never was, was deleted or has expired")
        context.expires_s = now_s + context.ttl_s
        self._contexts.move_to_end((salt, context_id))
        self._pin(context)
        return context

    def delete(self, context_id: str, salt: str | None = None) -> None:
        """Raises UnknownContextError. Its blocks are preserved like any others from now on."""
        if (salt, context_id) not in self._contexts:
            raise UnknownContextError(f"no context {context_id!r}: it never was, was deleted or has expired")
        self._remove(salt, context_id)

    def set_ttl(self, context_id: str, ttl_s: float, now_s: float) -> None:
        """Another time to live, from now on and after each use, with every tenant that has the id; 0 deletes it.

        Nothing where nobody has it. Raises InvalidContextError.
        """
        if ttl_s != 0:
            check_context(context_id, ttl_s)
        for context in [each for each in self._contexts.values() if each.context_id == context_id]:
            if ttl_s == 0:
                self._remove(context.salt, context_id)
            else:
                context.ttl_s, context.expires_s = ttl_s, now_s + ttl_s
                self._next_expiry_s = min(self._next_expiry_s, context.expires_s)

    def expire(self, now_s: float) -> list[Context]:
        """Delete the contexts whose time is over, and return them."""
        if now_s < self._next_expiry_s:
            return []
        expired = [context for context in self._contexts.values() if context.expires_s <= now_s]
        for context in expired:
            self._remove(context.salt, context.context_id)
        self._next_expiry_s = min((each.expires_s for each in self._contexts.values()), default=float("inf"))
        return expired

    def unpin(self) -> bool:
        """Let go of the least recently used context that has pinned blocks; False when there is none."""
        for context in self._contexts.values():
            if context.blocks:
                self._unpin(context)
                return True
        return False

    def holders(self) -> dict[int, int]:
        """Pins by block."""
        return dict(self._num_pins)

    def check_invariants(self) -> None:
        pins: dict[int, int] = {}
        for context in self._contexts.values():
            for block in context.blocks:
                assert block in self._blocks.index
                pins[block] = pins.get(block, 0) + 1
        assert pins == self._num_pins and len(pins) <= self._max_pinned

    def _pin(self, context: Context) -> None:
        """Pin what is on the device of its prefix, at the cost of contexts that were used less recently."""
        nodes = self._blocks.index.match(list(context.token_ids), len(context.token_ids), context.salt)
        for node in nodes[len(context.blocks) :]:
            if not node.is_ready:
                return
            assert node.block is not None
            if node.block not in self._num_pins and not self._has_room_beside(context):
                return
            self._blocks.hold(node.block)
            self._num_pins[node.block] = self._num_pins.get(node.block, 0) + 1
            context.blocks.append(node.block)

    def _has_room_beside(self, context: Context) -> bool:
        while self.num_pinned_blocks >= self._max_pinned:
            other = next((each for each in self._contexts.values() if each.blocks and each is not context), None)
            if other is None:
                return False
            self._unpin(other)
        return True

    def _unpin(self, context: Context) -> None:
        for block in reversed(context.blocks):  # the tail first: no child after its parent
            self._num_pins[block] -= 1
            if not self._num_pins[block]:
                del self._num_pins[block]
            self._blocks.let_go(block)
        context.blocks.clear()

    def _remove(self, salt: str | None, context_id: str) -> None:
        self._unpin(self._contexts.pop((salt, context_id)))


def check_context(context_id: str, ttl_s: float) -> None:
    """Raises InvalidContextError for an empty id or a time to live that is not above 0 and finite."""
    if not isinstance(context_id, str) or not context_id:
        raise InvalidContextError(f"the id of a context must be a string that is not empty, got {context_id!r}")
    if not isinstance(ttl_s, int | float) or not 0 < ttl_s < float("inf"):
        raise InvalidContextError(f"the time to live of context {context_id!r} must be above 0, got {ttl_s!r}")
