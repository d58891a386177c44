"""How long steps with prompts get: what is learned of their times, and who is left out where others wait."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

from flowserve.scheduling import Batch
from flowserve.scheduling.step_pace import MAX_LEFT_OUT, MOST_FOR_FIXED, StepPace
from flowserve.scheduling.step_room import MIN_PROMPT_TOKENS, StepRoom
from tests.unit.flowserve.pretended import Run, build

SIZES = [(512, 0), (130, 0), (0, 1), (0, 4), (300, 12), (40, 20), (480, 30), (0, 32), (200, 32), (16, 31)]


def step_s(prompt_tokens: int, decodes: int, fixed_ms: float = 2.0) -> float:
    """A small model on a few cores."""
    return (fixed_ms + 0.2 * prompt_tokens + 0.3 * decodes) / 1000.0


def learned(target_s: float = 0.025, fixed_ms: float = 2.0) -> StepPace:
    pace = StepPace(target_s)
    for prompt_tokens, decodes in SIZES:
        pace.note(prompt_tokens, decodes, step_s(prompt_tokens, decodes, fixed_ms))
    return pace


def room_of(pace: StepPace, decodes: int) -> StepRoom:
    room = pace.room([0] * decodes)
    assert room is not None
    return room


@pytest.mark.parametrize("decodes", [0, 1, 10, 30])
def test_a_step_takes_the_target(decodes: int) -> None:
    num_tokens = room_of(learned(), decodes).for_prompt(0)
    assert step_s(num_tokens, decodes) == pytest.approx(0.025, rel=0.02)


def test_steps_that_are_all_alike_do_not_make_it_forget_the_others() -> None:
    pace = learned()
    num_tokens = room_of(pace, 30).for_prompt(0)
    for _ in range(1000):
        pace.note(num_tokens, 30, step_s(num_tokens, 30))
    assert room_of(pace, 30).for_prompt(0) == pytest.approx(num_tokens, abs=2)


def test_steps_that_the_machine_interrupted_weigh_little() -> None:
    pace = learned()
    for prompt_tokens, decodes in SIZES[:2] * 4 + SIZES:
        pace.note(prompt_tokens, decodes, step_s(prompt_tokens, decodes) * (20 if decodes == 20 else 1))
    assert 0.017 < step_s(room_of(pace, 10).for_prompt(0), 10) < 0.033


def test_it_learns_that_the_machine_has_become_slower() -> None:
    pace = learned(target_s=0.05)
    for prompt_tokens, decodes in SIZES * 3:
        pace.note(prompt_tokens, decodes, 2 * step_s(prompt_tokens, decodes))
    assert 2 * step_s(room_of(pace, 10).for_prompt(0), 10) == pytest.approx(0.05, rel=0.05)


def test_prompts_are_worth_what_a_step_costs_beside_them() -> None:
    """Reading the weights takes longer than the target: shorter prompts would not make such steps short."""
    num_tokens = room_of(learned(fixed_ms=20.0), 30).for_prompt(0)
    assert 20.0 / (20.0 + 0.2 * num_tokens) == pytest.approx(1 / MOST_FOR_FIXED, rel=0.02)


def test_there_is_always_room_for_a_few() -> None:
    pace = StepPace(0.025)
    for prompt_tokens, decodes in SIZES:
        pace.note(prompt_tokens, decodes, 0.01 * prompt_tokens + 0.01 * decodes)
    room = room_of(pace, 30)
    assert room.for_prompt(0) == MIN_PROMPT_TOKENS
    room.add_prompt(0, 10)
    assert room.for_prompt(0) == MIN_PROMPT_TOKENS - 10


def test_without_a_target_or_knowledge_there_is_no_bound() -> None:
    assert StepPace(0.025).room([]) is None
    assert learned(target_s=0.0).room([]) is None
    pace = StepPace(0.025)
    for _ in range(20):
        pace.note(0, 8, 0.01)  # which says nothing of prompts
    assert pace.room([0]) is None


def test_who_is_later_than_a_prompt_of_the_step_is_left_out() -> None:
    room = StepRoom(0.025, 0.0, 0.001, 0.001, Counter({-1: 2, 0: 3}))
    assert room.add_decode(-1) and room.for_prompt(-1) == 23, "one token is kept for the other one of -1"
    room.add_prompt(-1, 5)
    assert not room.has_left_out
    assert room.add_decode(-1) and not room.add_decode(0) and room.for_prompt(0) == 0
    assert room.has_left_out and room.for_prompt(-1) == 18
    before = StepRoom(0.025, 0.0, 0.001, 0.001, Counter({0: 1}))
    assert before.add_decode(0), "who comes before the prompt in order is asked before it"
    before.add_prompt(-1, 5)
    assert not before.has_left_out


def test_nobody_is_left_out_for_ever() -> None:
    pace = learned()
    taken = []
    for _ in range(3 * (MAX_LEFT_OUT + 1)):
        room = room_of(pace, 1)
        room.add_prompt(-1, 20)
        taken.append(room.add_decode(0))
        pace.planned(room)
    assert taken == ([False] * MAX_LEFT_OUT + [True]) * 3


# --- the scheduler ---


def cost_of(batch: Batch) -> float:
    return step_s(*batch.num_prompt_tokens_and_decodes)


@pytest.fixture
def run() -> Run:
    """Steps of all sizes are behind it."""
    run = Run(build(400, 32, max_num_batched_tokens=512, target_step_s=0.025), cost=cost_of)
    for number, size in enumerate((400, 3, 200, 20, 100, 50)):
        run.add(f"known{number}", [1 + number] * size, 4)
        run.step()
        run.step()
    run.drain()
    return run


def sizes(run: Run) -> dict[str, int]:
    return {entry.sequence_id: entry.num_tokens for entry in run.batch.sequences}


def decoding(run: Run, number: int, **options: Any) -> list[str]:
    """Sequences that have their prompts computed and go on."""
    names = [f"long{each}" for each in range(number)]
    for name in names:
        run.add(name, [9], 200, **options)
    run.step()
    return names


def without_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.unit.flowserve.pretended.next_token", lambda tokens: 1 + len(tokens) % 7)


def test_a_prompt_with_nobody_else_takes_the_whole_step(run: Run) -> None:
    run.add("alone", [7] * 700, 1)
    run.step()
    assert sizes(run) == {"alone": 512}


def test_beside_others_a_prompt_takes_what_the_target_leaves(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    without_ends(monkeypatch)
    names = decoding(run, 10)
    run.add("prompt", [7] * 700, 1)
    run.step()
    assert sizes(run).keys() == {*names, "prompt"}
    assert cost_of(run.batch) == pytest.approx(0.025, rel=0.05)


def test_an_earlier_turn_has_the_step_for_itself(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """And its newcomers wait for no more than a step of the target's length."""
    without_ends(monkeypatch)
    decoding(run, 10)
    run.add("flood", [7] * 700, 1)
    run.step()
    assert cost_of(run.batch) < 0.027
    run.add("ahead", [8] * 60, 2, priority=-1)
    run.step()
    assert sizes(run) == {"ahead": 60}
    run.step()
    assert len(sizes(run)) == 12 and sizes(run)["ahead"] == 1


def test_prompts_of_earlier_turns_do_not_stop_the_others(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    without_ends(monkeypatch)
    names = decoding(run, 3)
    served: Counter[str] = Counter()
    for number in range(4 * (MAX_LEFT_OUT + 1)):
        run.add(f"ahead{number}", [8, number] * 30, 1, priority=-1)
        run.step()
        served.update(sizes(run).keys() & set(names))
    assert set(served.values()) == {4}


def test_a_step_whose_sequences_are_gone_says_nothing(run: Run) -> None:
    """The worker may have left them out, so that it took no time."""
    scheduler = run.scheduler
    scheduler.add("gone", [5] * 300, 3)
    batch = scheduler.schedule()
    scheduler.abort("gone")
    for _ in range(50):
        scheduler.took(batch, 1e-6)
    run.add("a", [6] * 700, 1)
    run.add("b", [7] * 700, 1)
    run.step()
    assert cost_of(run.batch) == pytest.approx(0.025, rel=0.05)
