"""SimulatedEngine: one FlowServe engine in simulated time: its real cache, steps as long as a cost model says."""

from __future__ import annotations

import math
from bisect import insort
from dataclasses import dataclass, field

from deepserve.protocol.messages import EngineReport
from deepserve.protocol.prompt_blocks import BLOCK_TOKENS, PromptBlocks, pack
from flowserve.cost_model import CostModel
from flowserve.query_key_pairs import num_pairs
from flowserve.rtc.cache import RelationalTensorCache
from flowserve.rtc.index import block_hashes
from flowserve.rtc.moves import Tier
from flowserve.scheduling.order import BY_RANK, TurnOrder
from flowserve.scheduling.policy import BoundedPriority
from flowserve.scheduling.step_pace import StepPace
from flowserve.step_record import StepWork

TARGET_STEP_S = 0.025
"""An engine's own default: `EngineConfig.target_step_ms`."""


@dataclass(frozen=True, slots=True)
class Prompt:
    """`token_ids`: of the prompt and of the answer that it will get, `num_output` of them."""

    token_ids: list[int]
    num_output: int

    @property
    def num_tokens(self) -> int:
        return len(self.token_ids) - self.num_output

    @property
    def blocks(self) -> PromptBlocks:
        names = pack(block_hashes(self.token_ids[: self.num_tokens], BLOCK_TOKENS))
        return PromptBlocks(self.num_tokens, names)


@dataclass(slots=True, eq=False)
class Sequence:
    task_id: str
    attempt: int
    prompt: Prompt
    priority: int = 0
    rank: int = 0
    num_overtakes: int = 0
    num_computed: int = 0
    num_produced: int = 0
    was_seated: bool = False
    num_preempted: int = 0
    """Tokens that it had put out when it lost its seat: they are computed again like a prompt's."""

    @property
    def num_before(self) -> int:
        """Tokens to compute before it can go on: of the prompt, and of the answer up to where it was preempted."""
        return self.prompt.num_tokens + self.num_preempted

    @property
    def num_missing(self) -> int:
        """Of these, those that are not computed."""
        return max(0, self.num_before - self.num_computed)

    @property
    def is_over(self) -> bool:
        return self.num_produced >= self.prompt.num_output


@dataclass(slots=True)
class Stretch:
    """Steps of one kind: one with a chunk of prompts in it, or several that only decode, each `step_s` long."""

    start_s: float
    step_s: float
    num_steps: int
    chunks: dict[str, int] = field(default_factory=dict)
    """Tokens of prompts, by task."""
    decoding: frozenset[str] = frozenset()
    """Tasks that get a token in each step."""

    @property
    def end_s(self) -> float:
        return self.start_s + self.step_s * self.num_steps


@dataclass(frozen=True, slots=True)
class Done:
    """What a stretch brought: sequences that got their first token, those that are over, tokens by sequence that got
    some, and sequences that were let go."""

    report: EngineReport
    over: list[Sequence]
    produced: list[tuple[Sequence, int]]
    released: list[Sequence]


class SimulatedEngine:
    """Continuous batching with chunked prefill, as FlowServe's scheduler does it, in stretches of equal steps."""

    def __init__(
        self,
        cost: CostModel,
        num_blocks: int,
        num_seats: int,
        most_steps: int = 0,
        target_s: float = TARGET_STEP_S,
    ) -> None:
        """most_steps: after so many at the latest it tells what it has; 0: when a sequence is over.
        target_s: of a step, see flowserve's StepPace."""
        self._cost = cost
        self._pace = StepPace(target_s)
        self._most_steps = most_steps
        self._releasing: set[str] = set()
        self._cache = RelationalTensorCache(num_blocks, BLOCK_TOKENS)
        self._num_seats = num_seats
        self._order = TurnOrder[Sequence](BoundedPriority())
        self._waiting: list[Sequence] = []  # both sorted by rank
        self._running: list[Sequence] = []
        self.stretch: Stretch | None = None
        self.prompt_tokens = 0
        self.hit_tokens = 0

    def add(self, sequence: Sequence, now_s: float) -> bool:
        """Whether `stretch` has changed: a new one, or one that ends with the step that runs, to let it in."""
        self._order.insert(sequence)
        insort(self._waiting, sequence, key=BY_RANK)
        if self.stretch is None:
            return self._begin(now_s)
        gets_seat = len(self._running) < self._num_seats or sequence.rank < self._running[-1].rank
        return gets_seat and self._cut(now_s)

    def release(self, task_id: str, now_s: float) -> bool:
        """Let a sequence go behind the step that runs. Whether `stretch` has changed: it ends with that step."""
        self._releasing.add(task_id)
        return self._cut(now_s)

    def _cut(self, now_s: float) -> bool:
        if self.stretch is None or self.stretch.num_steps <= 1:
            return False
        done = max(1, math.ceil((now_s - self.stretch.start_s) / self.stretch.step_s))
        self.stretch.num_steps = min(self.stretch.num_steps, done)
        return True

    def end_stretch(self) -> Done:
        """At the end of `stretch`; the next one has begun where there is work."""
        stretch = self.stretch
        assert stretch is not None
        began, over, produced = [], [], []
        for sequence in list(self._running):
            task_id = sequence.task_id
            if task_id not in stretch.chunks and task_id not in stretch.decoding:
                continue
            was_first = sequence.num_produced == 0
            sequence.num_computed += stretch.chunks.get(task_id, stretch.num_steps)
            if not sequence.num_missing:
                num_tokens = 1 if task_id in stretch.chunks else stretch.num_steps
                sequence.num_produced += num_tokens
                produced.append((sequence, num_tokens))
            if was_first and sequence.num_produced:
                began.append(task_id)
                self._cache.tables.computed(task_id, sequence.prompt.token_ids, sequence.prompt.num_tokens)
            if sequence.num_produced and sequence.is_over:
                over.append(sequence)
                self._leave(sequence)
                self._order.remove(sequence)
        released = self._let_go()
        prompt_tokens = sum(stretch.chunks.values())
        self._pace.note(prompt_tokens, len(stretch.decoding), stretch.step_s)
        end_s, self.stretch = stretch.end_s, None
        self._begin(end_s)
        ms = stretch.step_s * stretch.num_steps * 1e3
        num_nexts = stretch.num_steps if stretch.decoding else 0
        return Done(self._report(began, num_nexts, ms, prompt_tokens), over, produced, released)

    def _let_go(self) -> list[Sequence]:
        """What was asked for, unless it is over."""
        found = [sequence for sequence in self._order if sequence.task_id in self._releasing]
        self._releasing.clear()
        for sequence in found:
            self.drop(sequence.task_id)
        return found

    def drop(self, task_id: str) -> None:
        """A cancelled task; its blocks are given back."""
        for sequence in [each for each in self._order if each.task_id == task_id]:
            if sequence in self._running:
                self._running.remove(sequence)
                self._cache.free(task_id)
            else:
                self._waiting.remove(sequence)
            self._order.remove(sequence)

    def _begin(self, now_s: float) -> bool:
        self._admit()
        if not self._running:
            return False
        chunks, pairs, finishing, decoding = self._next_step()
        contexts = sum(each.prompt.num_tokens + each.num_produced for each in decoding)
        work = StepWork(
            prefill_tokens=sum(chunks.values()), decode_sequences=len(decoding),
            num_sequences=len(decoding) + len(chunks), num_logits=len(decoding) + finishing,
            prefill_pairs=pairs, decode_pairs=contexts,
        )  # fmt: skip
        num_steps = 1 if chunks else min(each.prompt.num_output - each.num_produced for each in decoding)
        if self._most_steps:
            num_steps = min(num_steps, self._most_steps)
        names = frozenset(each.task_id for each in decoding)
        self.stretch = Stretch(now_s, self._cost.estimate(work) / 1e3, num_steps, chunks, names)
        return True

    def _next_step(self) -> tuple[dict[str, int], int, int, list[Sequence]]:
        """Tokens of each prompt in it, their query-key pairs, how many prompts they finish, and who decodes."""
        priorities = [each.priority for each in self._running if not each.num_missing]
        budget = self._cost.setting.chunk - len(priorities)
        has_prompts = len(priorities) < len(self._running)
        room = self._pace.room(priorities) if has_prompts and len(self._order) > 1 else None
        chunks, pairs, finishing, decoding = {}, 0, 0, []
        for sequence in self._running:
            if not sequence.num_missing:
                if room is None or room.add_decode(sequence.priority):
                    decoding.append(sequence)
                continue
            num_tokens = min(budget, sequence.num_missing)
            if room is not None:
                num_tokens = min(num_tokens, room.for_prompt(sequence.priority))
            if num_tokens > 0:
                chunks[sequence.task_id] = num_tokens
                pairs += num_pairs(sequence.num_computed, num_tokens)
                finishing += num_tokens == sequence.num_missing
                budget -= num_tokens
                if room is not None:
                    room.add_prompt(sequence.priority, num_tokens)
        self._pace.planned(room)
        return chunks, pairs, finishing, decoding

    def _admit(self) -> None:
        """Waiting ones take free seats, and those of running ones that come after them in the order."""
        while self._waiting:
            sequence = self._waiting[0]
            if len(self._running) >= self._num_seats and not self._displace(sequence):
                return
            token_ids = sequence.prompt.token_ids
            match = self._cache.match_by_prefix_token(token_ids[: sequence.num_before])
            while not self._cache.fits(match, len(token_ids), 0):
                assert self._running, f"{sequence.task_id} never fits"
                if not self._displace(sequence):
                    return
            self._waiting.pop(0)
            self._cache.adopt(sequence.task_id, match)
            assert self._cache.alloc_blocks(sequence.task_id, len(token_ids))
            sequence.num_computed = match.num_tokens
            if not sequence.was_seated:
                sequence.was_seated = True
                self.hit_tokens += match.num_tokens
                self.prompt_tokens += sequence.prompt.num_tokens
            insort(self._running, sequence, key=BY_RANK)

    def _displace(self, sequence: Sequence) -> bool:
        """Preempt the last running sequence if it comes after a waiting one."""
        victim = self._running[-1]
        if victim.rank < sequence.rank:
            return False
        self._leave(victim)
        victim.num_preempted, victim.num_computed = victim.num_produced, 0
        insort(self._waiting, victim, key=BY_RANK)
        return True

    def _leave(self, sequence: Sequence) -> None:
        """Its blocks may be given to others; until they are, they hold what it has computed."""
        self._running.remove(sequence)
        num_computed = min(sequence.num_computed, len(sequence.prompt.token_ids) - 1)
        self._cache.tables.computed(sequence.task_id, sequence.prompt.token_ids, num_computed)
        self._cache.free(sequence.task_id)

    def _report(self, began: list[str], num_nexts: int, ms: float, prompt_tokens: int) -> EngineReport:
        """num_nexts: steps in which sequences got their next tokens, all of these or none."""
        latest = {each.prefix: each.tier for each in self._cache.take_relocations()}
        return EngineReport(
            on_device=pack(prefix for prefix, tier in latest.items() if tier is Tier.DEVICE),
            gone=pack(prefix for prefix, tier in latest.items() if tier is None),
            began=tuple(began),
            steps=num_nexts, step_ms=ms if num_nexts else 0.0,
            prompt_tokens=prompt_tokens, prompt_ms=ms if prompt_tokens else 0.0,
        )  # fmt: skip

    def check_invariants(self) -> None:
        self._cache.check_invariants()
        self._order.check_invariants()
        running = {each.task_id for each in self._running}
        assert self._cache.tables.sequence_ids == running, "blocks of sequences that are gone"
        assert sorted([*self._waiting, *self._running], key=BY_RANK) == list(self._order)
