"""EngineBook: what the engines of one model have to do and hold, as far as the controller knows."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import msgspec

from deepserve.protocol.messages import EngineReport
from deepserve.protocol.prompt_blocks import BLOCK_TOKENS, PromptBlocks, unpack
from deepserve_controller.core.engine_pace import EnginePace
from deepserve_controller.core.prompt_tree import NO_MATCH, Match, PromptTree
from deepserve_controller.core.routing_views import EngineView, ExecutorLoad
from deepserve_controller.core.scaling_views import TokenLoad

SLOTS_AHEAD = 2
"""A pod holds so many times its slots with tasks that take others' seats: these wait in its engine meanwhile."""


class Charge(msgspec.Struct):
    """One task on an engine. `prefill`: blocks that its engine still has to compute; 0 from its first token on."""

    names: tuple[int, ...]
    tokens: int
    blocks: int
    prefill: int
    assigned_s: float
    is_ahead: bool = False
    """It takes another one's seat: of those that do not it need not wait for any."""


class EngineUse(msgspec.Struct, eq=False):
    """One engine; sums over its tasks, in blocks."""

    charges: dict[str, Charge] = {}
    prefill_blocks: int = 0
    decode_blocks: int = 0
    has_reported: bool = False
    """It says what it holds; one that never does is believed to keep what was sent there."""

    @property
    def prefill_ahead(self) -> int:
        return sum(charge.prefill for charge in self.charges.values() if charge.is_ahead)

    @property
    def decode_ahead(self) -> int:
        return sum(charge.blocks for charge in self.charges.values() if charge.is_ahead)


class EngineBook:
    """The load is the controller's own, counted as tasks come and go, so it is never stale; the tree is corrected by
    the engines. A tree that breaks is replaced by an empty one: routing goes on by load."""

    def __init__(self, make_tree: Callable[[], PromptTree] = PromptTree) -> None:
        self._make_tree = make_tree
        self.tree = make_tree()
        self.pace = EnginePace()
        self._uses: dict[str, EngineUse] = {}

    def add(self, pod_id: str) -> None:
        self._uses.setdefault(pod_id, EngineUse())

    def remove(self, pod_id: str) -> None:
        self._uses.pop(pod_id, None)
        self._change_tree(lambda: self.tree.remove(pod_id))

    def views(
        self, executors: Iterable[ExecutorLoad], prompt: PromptBlocks | None, is_ahead: bool = False
    ) -> list[EngineView]:
        """What routing may know; for a task that takes another one's seat only those count that it has to wait for.
        Raises what a broken tree raises."""
        matches = self.tree.match(prompt.beginnings()) if prompt is not None else {}
        found = []
        for executor in executors:
            use = self._uses.get(executor.pod_id) or EngineUse()
            match = matches.get(executor.pod_id, NO_MATCH)
            found.append(
                EngineView(
                    executor.pod_id,
                    executor.slots * (SLOTS_AHEAD if is_ahead else 1),
                    executor.load,
                    use.prefill_ahead if is_ahead else use.prefill_blocks,
                    use.decode_ahead if is_ahead else use.decode_blocks,
                    *match,
                    use.has_reported,
                )  # fmt: skip
            )
        return found

    # --- tasks ----------------------------------------------------------------------------------------

    def assigned(
        self, pod_id: str, task_id: str, prompt: PromptBlocks | None, now_s: float, is_ahead: bool = False
    ) -> None:
        use = self._uses.get(pod_id)
        if use is None or prompt is None:
            return
        self.pace.arrived(prompt.num_tokens, now_s)
        names = prompt.beginnings()
        match = self._change_tree(lambda: self.tree.match(names).get(pod_id, NO_MATCH)) or NO_MATCH
        blocks = prompt.num_blocks
        charge = Charge(names, prompt.num_tokens, blocks, max(0, blocks - match.blocks), now_s, is_ahead)
        self.left(pod_id, task_id)  # an earlier attempt
        use.charges[task_id] = charge
        use.prefill_blocks += charge.prefill
        use.decode_blocks += blocks
        self._change_tree(lambda: self.tree.expect(pod_id, names))

    def began(self, pod_id: str, task_id: str, now_s: float) -> None:
        """Its first token came: its prompt is computed."""
        use = self._uses.get(pod_id)
        charge = use.charges.get(task_id) if use is not None else None
        if use is not None and charge is not None and charge.assigned_s >= 0.0:
            use.prefill_blocks -= charge.prefill
            self.pace.first_token(now_s - charge.assigned_s, charge.prefill * BLOCK_TOKENS, now_s)
            charge.prefill, charge.assigned_s = 0, -1.0

    def left(self, pod_id: str, task_id: str) -> None:
        use = self._uses.get(pod_id)
        charge = use.charges.pop(task_id, None) if use is not None else None
        if use is None or charge is None:
            return
        use.prefill_blocks -= charge.prefill
        use.decode_blocks -= charge.blocks
        if use.has_reported:
            self._change_tree(lambda: self.tree.settle(pod_id, charge.names))

    def reported(self, pod_id: str, report: EngineReport, now_s: float) -> None:
        use = self._uses.get(pod_id)
        if use is None:
            return
        use.has_reported = True
        self.pace.steps(report, now_s)
        self._change_tree(lambda: self._take_news(pod_id, report))
        for task_id in report.began:
            self.began(pod_id, task_id, now_s)

    def _take_news(self, pod_id: str, report: EngineReport) -> None:
        self.tree.note(pod_id, None, unpack(report.gone))
        self.tree.note(pod_id, "file", unpack(report.in_file))
        self.tree.note(pod_id, "host", unpack(report.on_host))
        self.tree.note(pod_id, "device", unpack(report.on_device))

    def _change_tree(self, change: Callable[[], Match | None]) -> Match | None:
        try:
            return change()
        except Exception:  # nobody's request is to fail for what only makes requests faster
            self.tree = self._make_tree()
            return None

    # --- for the autoscaler -----------------------------------------------------------------------------

    @property
    def prefill_tokens(self) -> int:
        """That all engines together still have to compute of prompts."""
        return sum(use.prefill_blocks for use in self._uses.values()) * BLOCK_TOKENS

    def token_load(self, queued_tokens: int, now_s: float) -> TokenLoad:
        """Of all engines together."""
        decode = sum(use.decode_blocks for use in self._uses.values())
        return self.pace.token_load(queued_tokens, self.prefill_tokens, decode, now_s)

    def check_invariants(self) -> None:
        self.tree.check_invariants()
        for pod_id, use in self._uses.items():
            charges = use.charges.values()
            assert use.prefill_blocks == sum(charge.prefill for charge in charges), f"{pod_id}: prefill miscounted"
            assert use.decode_blocks == sum(charge.blocks for charge in charges), f"{pod_id}: blocks miscounted"
