"""Priorities, deadlines and fairness: who is served when, over random arrivals in simulated steps."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowserve.scheduling import Batch, BoundedPriority
from flowserve.scheduling.order import TurnOrder
from flowserve.scheduling.step_pace import MAX_LEFT_OUT
from flowserve.sequence import Sequence
from tests.unit.flowserve.pretended import Run, build


@dataclass(frozen=True)
class Arrival:
    """after: steps since the arrival before.  abort_after, deadline_after: steps of its life; None = never."""

    after: int
    prompt: list[int]
    max_tokens: int
    priority: int
    abort_after: int | None
    deadline_after: int | None


arrivals = st.lists(
    st.builds(
        Arrival,
        after=st.sampled_from([0, 0, 0, 1, 2, 7]),
        prompt=st.one_of(
            st.lists(st.integers(1, 5), min_size=1, max_size=20), st.integers(1, 20).map(lambda length: [6] * length)
        ),
        max_tokens=st.integers(1, 12),
        priority=st.sampled_from([0, 0, 0, 1, 2, -1]),
        abort_after=st.none() | st.integers(0, 30),
        deadline_after=st.none() | st.integers(0, 30),
    ),
    min_size=1,
    max_size=25,
)


@dataclass
class Life:
    """What a sequence met. `before`: tokens of each sequence that was ever before it in order."""

    sequence: Any
    arrival: Arrival
    began: int
    num_before: int
    before: dict[str, int]
    ended: int | None = None
    num_left_out: int = 0


class Simulation:
    """Feeds arrivals to a scheduler, one simulated step after the other, and checks each step's promises."""

    def __init__(self, run: Run, planned: list[Arrival]) -> None:
        self.run = run
        self.planned = planned
        self.lives: dict[str, Life] = {}
        self.now = 0
        self.started: list[str] = []

    def alive(self) -> list[Life]:
        return [life for life in self.lives.values() if life.ended is None]

    def to_the_end(self) -> None:
        due = 0
        for index, arrival in enumerate(self.planned):
            due += arrival.after
            while self.now < due:
                self.step()
            self.arrive(f"s{index}", arrival)
        limit = self.now + sum(self.bound(life) for life in self.alive()) + 1
        while self.alive() and self.now < limit:
            self.step()
        while self.run.step():
            pass

    def arrive(self, sequence_id: str, arrival: Arrival) -> None:
        deadline_s = None if arrival.deadline_after is None else float(self.now + arrival.deadline_after)
        sequence = self.run.add(
            sequence_id, arrival.prompt, arrival.max_tokens, priority=arrival.priority, deadline_s=deadline_s
        )
        num_tokens = len(arrival.prompt) + arrival.max_tokens
        before = {}
        for life in self.alive():
            if life.sequence.rank > sequence.rank:
                life.before[sequence_id] = num_tokens
            else:
                before[life.sequence.sequence_id] = len(life.arrival.prompt) + life.arrival.max_tokens
        self.lives[sequence_id] = Life(sequence, arrival, self.now, len(before), before)
        self.run.scheduler.check_invariants()

    def step(self) -> None:
        for life in self.alive():
            if life.arrival.abort_after == self.now - life.began and not life.sequence.is_finished:
                self.run.abort(life.sequence.sequence_id)
        self.run.expire(float(self.now))
        self.note_ends()
        running = [life.sequence for life in self.alive() if life.sequence.status.value == "running"]
        decoding = [sequence for sequence in running if sequence.num_unscheduled == 1]
        prompts = [sequence for sequence in running if sequence.num_unscheduled > 1]
        first = min((life.sequence for life in self.alive()), key=lambda s: s.rank, default=None)
        goes_on = first is not None and not first.num_drafts and first.num_tokens < first.num_tokens_limit
        unscheduled = first.num_unscheduled if first and goes_on else 0
        self.run.step()
        batch = self.run.batch
        served = {entry.sequence_id for entry in batch.sequences}
        earliest = min((self.lives[e.sequence_id].sequence.priority for e in batch.sequences), default=0)
        for sequence in decoding:
            life = self.lives[sequence.sequence_id]
            is_left_out = sequence.sequence_id not in served and sequence.sequence_id not in batch.preempted
            life.num_left_out = life.num_left_out + 1 if is_left_out else 0
            assert life.num_left_out <= self.most_left_out, "decode is starved"
            assert not is_left_out or sequence.priority > earliest, "left out for nobody"
        if prompts and not batch.preempted:
            assert served - {s.sequence_id for s in decoding}, "prefill is starved"
        if first is not None and unscheduled > 0:
            assert first.sequence_id in served, "the first in order makes no progress"
        for sequence_id in sorted(served - set(self.started), key=lambda i: self.lives[i].sequence.rank):
            self.started.append(sequence_id)
        self.now += 1
        self.note_ends()

    def note_ends(self) -> None:
        for life in self.alive():
            if life.sequence.is_finished:
                life.ended = self.now

    def bound(self, life: Life) -> int:
        """That of BoundedPriority; while one is first, others may be left out."""
        longest = max([*life.before.values(), len(life.arrival.prompt) + life.arrival.max_tokens])
        return (life.num_before + 2 * life.sequence.num_overtakes + 1) * (longest + 2) * self.run.depth

    @property
    def most_left_out(self) -> int:
        return MAX_LEFT_OUT if self.run.cost is not None else 0


def cost_of(batch: Batch) -> float:
    """The shortest chunks that there can be, once something is known."""
    prompt_tokens, decodes = batch.num_prompt_tokens_and_decodes
    return 0.0001 + prompt_tokens + 0.5 * decodes


@given(
    planned=arrivals,
    num_blocks=st.integers(8, 20),
    max_num_sequences=st.integers(1, 5),
    max_num_batched_tokens=st.integers(1, 12),
    max_overtakes=st.integers(0, 4),
    depth=st.integers(1, 3),
    drafting=st.booleans(),
    has_target=st.booleans(),
)
def test_every_sequence_ends_within_the_bound(
    planned: list[Arrival],
    num_blocks: int,
    max_num_sequences: int,
    max_num_batched_tokens: int,
    max_overtakes: int,
    depth: int,
    drafting: bool,
    has_target: bool,
) -> None:
    """Whatever arrives and is cancelled, each step serves all that decode and some prompt, and equals keep their order.

    That no step has more tokens than it may, and reads no wrong KV, is asserted by `Run`.
    """
    scheduler = build(
        num_blocks,
        max_overtakes=max_overtakes,
        max_num_sequences=max_num_sequences,
        max_num_batched_tokens=max_num_batched_tokens,
        target_step_s=0.001 * has_target,
    )
    simulation = Simulation(Run(scheduler, depth, drafting, cost_of if has_target else None), planned)
    simulation.to_the_end()
    simulation.run.check_results()
    for sequence_id, life in simulation.lives.items():
        assert life.ended is not None, f"{sequence_id} did not end"
        assert life.ended - life.began <= simulation.bound(life)
        assert life.sequence.num_overtakes == len(life.before) - life.num_before <= max_overtakes
        if life.arrival.deadline_after is not None:
            assert life.ended - life.began <= life.arrival.deadline_after
    for priority in {arrival.priority for arrival in planned}:
        equals = [i for i in simulation.started if simulation.lives[i].arrival.priority == priority]
        assert equals == sorted(equals, key=lambda i: int(i[1:])), "an equal started before one that came earlier"


def test_a_stream_of_urgent_sequences_does_not_starve_an_ordinary_one() -> None:
    run = Run(build(max_overtakes=5, max_num_sequences=1, num_blocks=16))
    ordinary = run.add("ordinary", [1, 2, 3], 4, priority=9)
    num_urgent = 0
    while not ordinary.is_finished:
        run.add(f"urgent{num_urgent}", [4, 5], 2, priority=-(10**12))
        num_urgent += 1
        run.step()
        assert num_urgent < 100
    assert ordinary.num_overtakes == 5


@given(
    priorities=st.lists(st.integers(-3, 3), max_size=200), removed=st.sets(st.integers(0, 199)), spread=st.booleans()
)
def test_the_order_is_by_priority_then_arrival(priorities: list[int], removed: set[int], spread: bool) -> None:
    """Also where newcomers squeeze in at one place until no number is left between two neighbours."""
    order = TurnOrder(BoundedPriority())
    expected = []
    for arrival, priority in enumerate(priorities):
        sequence = Sequence(str(arrival), [1], 1, 1, arrival, priority if spread else min(priority, 0))
        order.insert(sequence)
        expected.append(sequence)
        if arrival in removed:
            order.remove(sequence)
            expected.remove(sequence)
        order.check_invariants()
    assert list(order) == sorted(expected, key=lambda sequence: (sequence.priority, sequence.arrival))


def test_ranks_are_given_anew_when_none_is_left_between_neighbours() -> None:
    order = TurnOrder(BoundedPriority())
    late = Sequence("late", [1], 1, 1, 0, 5)
    order.insert(late)
    early = [Sequence(str(arrival), [1], 1, 1, arrival, 0) for arrival in range(1, 100)]
    for sequence in early:
        order.insert(sequence)
        order.check_invariants()
    assert list(order) == [*early, late] and late.num_overtakes == 99


def test_an_urgent_sequence_takes_the_seat_of_the_last() -> None:
    run = Run(build(num_blocks=16, max_num_sequences=2, max_num_batched_tokens=8))
    for sequence_id, priority in (("a", 1), ("b", 2)):
        run.add(sequence_id, [3, 1, 2], 9, priority=priority)
    run.step()
    run.add("urgent", [4, 4, 5], 1)
    run.step()
    assert [entry.sequence_id for entry in run.batch.sequences] == ["urgent", "a"]
    assert run.batch.preempted == ("b",)
    run.drain()
    run.check_results()
    assert run.scheduler.num_preemptions == 1


def test_an_urgent_sequence_takes_the_blocks_of_the_last() -> None:
    run = Run(build(num_blocks=6, block_size=4, max_num_batched_tokens=32))
    for sequence_id in ("a", "b"):
        run.add(sequence_id, [int(sequence_id, 16)] * 7, 6, priority=1)
    run.step()
    run.add("urgent", [4] * 12, 1)
    run.step()
    assert [entry.sequence_id for entry in run.batch.sequences] == ["urgent", "a"]
    assert run.batch.preempted == ("b",)
    run.drain()
    run.check_results()


def test_who_is_displaced_with_the_last_token_in_flight_is_not_started_again() -> None:
    run = Run(build(num_blocks=16, max_num_sequences=1), depth=9)
    low = run.add("low", [1, 2, 3], 2, priority=1)
    run.step()
    run.step()
    assert low.num_tokens == low.num_tokens_limit
    run.add("urgent", [4, 5], 1)
    run.step()
    assert run.batch.preempted == ("low",)
    run.abort("urgent")
    run.step()
    assert not run.batch, "there is no token left to compute"
    run.drain()
    run.check_results()
    assert len(low.token_ids) == 5 or low.finish_reason == "stop"


def test_equals_do_not_displace_each_other() -> None:
    run = Run(build(num_blocks=16, max_num_sequences=1))
    run.add("a", [1, 2, 3], 5)
    run.step()
    run.add("b", [4, 5], 5)
    run.step()
    assert [entry.sequence_id for entry in run.batch.sequences] == ["a"]


def test_a_deadline_ends_what_waits_and_what_runs() -> None:
    run = Run(build(num_blocks=16, max_num_sequences=1), depth=2)
    scheduler = run.scheduler
    assert not scheduler.has_deadlines
    running = run.add("running", [1, 2, 3], 9, deadline_s=7.0)
    waiting = run.add("waiting", [1, 2, 3], 9, deadline_s=5.0)
    kept = run.add("kept", [4, 5], 3)
    run.step()
    assert scheduler.has_deadlines and scheduler.expire(4.999) == []
    assert scheduler.expire(5.0) == [waiting] and waiting.finish_reason == "deadline"
    assert scheduler.expire(100.0) == [running] and running.is_finished
    assert not scheduler.has_deadlines
    run.aborted |= {"running", "waiting"}
    run.drain()
    run.check_results()
    assert kept.finish_reason in ("length", "stop")


def test_a_deadline_is_not_that_of_a_later_sequence_with_the_same_id() -> None:
    scheduler = build()
    scheduler.add("a", [1], 1, deadline_s=1.0)
    scheduler.abort("a")
    scheduler.add("a", [1], 1, deadline_s=2.0)
    assert scheduler.expire(1.5) == []
    assert [sequence.sequence_id for sequence in scheduler.expire(2.0)] == ["a"]


@pytest.mark.parametrize("num", [10, 1000])
def test_deadlines_of_ended_sequences_are_forgotten(num: int) -> None:
    scheduler = build()
    for index in range(num):
        scheduler.add(str(index), [1], 1, deadline_s=1e9)
        scheduler.abort(str(index))
    assert len(scheduler._deadlines) <= 101
