"""Engines that move for others, and their streams, in simulated time; and where engines' times come from."""

from __future__ import annotations

from pathlib import Path
from random import Random

import pytest

from deepserve_controller.policies.model_placement import least_startup_time
from deepserve_controller.simulator.costs import ASSUMED, SAMPLES, read_cost, slower
from deepserve_controller.simulator.model_engine import Prompt, Sequence, SimulatedEngine
from deepserve_controller.simulator.model_scenarios import MODEL_SCENARIOS
from deepserve_controller.simulator.moves import asks_of, compare_moves, moves_table, num_wrong, run_moves
from flowserve.cost_model import CostModel
from flowserve.errors import StepLogError


def test_models_start_sooner_where_others_move_and_no_token_is_lost() -> None:
    moved, waited, with_losses = compare_moves(1, end_s=300.0)
    assert moved.moves > 0 and moved.streams > 0 == waited.moves
    assert moved.start_p50_s < 0.6 * waited.start_p50_s and moved.start_p99_s < 0.5 * waited.start_p99_s
    assert moved.pause_max_s < 2.0 and moved.other_p99_s < 1.2 * waited.other_p99_s
    assert with_losses.streams > moved.streams, "those of pods that died went on elsewhere"
    assert [row.wrong for row in (moved, waited, with_losses)] == [0, 0, 0]
    assert "| tokens lost or doubled |" in moves_table([moved])


def test_a_seed_gives_one_history() -> None:
    asks = asks_of(Random(2), 60.0)
    first, again = (run_moves("moves", asks, Random(2), least_startup_time, 2) for _ in range(2))
    assert first == again and first.requests == len(asks) > 50


@pytest.mark.parametrize(
    ("said", "wrong"), [([7, 8, 9], 0), ([7, 9], 1), ([7, 8, 8, 9], 1), ([7, 9, 8], 1), ([], 3), ([7, 8, 8], 2)]
)
def test_what_counts_as_lost_or_doubled(said: list[int], wrong: int) -> None:
    assert num_wrong(said, Prompt([1, 2, 7, 8, 9], 3)) == wrong


def test_a_sequence_is_let_go_behind_the_step_that_runs() -> None:
    engine = SimulatedEngine(ASSUMED, num_blocks=100, num_seats=4, most_steps=16)
    engine.add(Sequence("task-1", 1, Prompt(list(range(132)), 100)), 0.0)
    engine.end_stretch()
    assert engine.stretch is not None and engine.stretch.num_steps == 16, "it tells what it has after so many"
    start_s, step_s = engine.stretch.start_s, engine.stretch.step_s
    assert engine.release("task-1", start_s + 2.5 * step_s)
    assert engine.stretch.end_s == pytest.approx(start_s + 3 * step_s)
    done = engine.end_stretch()
    [(sequence, num_tokens)] = done.produced
    assert done.released == [sequence] and (num_tokens, sequence.num_produced) == (3, 4) and engine.stretch is None
    assert not engine.release("task-9", 9.0), "it is over"
    engine.check_invariants()


# --- costs ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SAMPLES)
def test_measured_samples_say_where_and_how_well(name: str) -> None:
    cost = read_cost(name)
    assert "AMD EPYC" in cost.hardware and cost.setting.model == name
    assert cost.error["all"].median < 0.1 and cost.num_steps > 400
    assert 0.1 < slower(cost) < 20.0


def test_a_cost_model_of_ones_own(tmp_path: Path) -> None:
    assert read_cost("assumed") is ASSUMED and slower(ASSUMED) == 1.0
    read_cost("tiny").save(tmp_path / "mine.json")
    assert read_cost(str(tmp_path / "mine.json")) == read_cost("tiny")
    (tmp_path / "none.json").write_text("{}")
    for path in ("none.json", "nothing.json"):
        with pytest.raises(StepLogError, match=path):
            read_cost(str(tmp_path / path))


def test_slower_engines_get_the_same_load() -> None:
    scenario = MODEL_SCENARIOS["models-code"](Random(1))
    twice = CostModel(
        coefficients={name: 2.0 * ms for name, ms in ASSUMED.coefficients.items()}, knee=ASSUMED.knee,
        setting=ASSUMED.setting,
    )  # fmt: skip
    paced = scenario.at_pace(twice)
    assert scenario.at_pace(ASSUMED) is scenario and paced.engines.cost is twice
    assert [paced.arrivals_s[name] for name in ("rq-0", "rq-9")] == pytest.approx(
        [2.0 * scenario.arrivals_s[name] for name in ("rq-0", "rq-9")]
    )
