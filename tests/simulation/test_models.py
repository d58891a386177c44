"""Routing and scaling of models in simulated time, beside the rules of other systems."""

from __future__ import annotations

from functools import cache
from random import Random

import pytest

from deepserve_controller.simulator.costs import ASSUMED, read_cost
from deepserve_controller.simulator.model_engine import TARGET_STEP_S, Prompt, Sequence, SimulatedEngine
from deepserve_controller.simulator.model_scenarios import (
    MODEL_SCENARIOS,
    POLICIES,
    ModelRow,
    compare_models,
    model_table,
    row_of,
    run_models,
)
from deepserve_controller.simulator.placement import RULES, compare_placement, placement_table
from deepserve_controller.simulator.tenants import compare_tenants, tenants_table
from deepserve_controller.simulator.traces import read_trace
from flowserve.config import EngineConfig


@cache
def rows(name: str) -> dict[str, ModelRow]:
    return {row.policy: row for row in compare_models(name, 1)}


@pytest.mark.parametrize("name", sorted(MODEL_SCENARIOS.keys() - {"models-seldom"}))
def test_not_worse_than_others_where_it_claims_to_be(name: str) -> None:
    found = rows(name)
    ours = found["deepserve"]
    others = {policy: row for policy, row in found.items() if policy != "deepserve"}
    assert {row.requests for row in others.values()} == {ours.requests}
    assert ours.engine_s < found["always on"].engine_s
    for policy in ("one a tick", "knative"):
        assert ours.first_p99_s <= others[policy].first_p99_s, policy
        assert ours.cold <= others[policy].cold, policy
    assert ours.first_p50_s <= found["round robin"].first_p50_s * 1.05


def test_conversations_find_their_caches_again() -> None:
    found = rows("models-sessions")
    assert found["deepserve"].hits > 1.3 * found["round robin"].hits
    assert found["deepserve"].first_p50_s < found["round robin"].first_p50_s


def test_a_model_that_is_seldom_asked_is_loaded_by_then() -> None:
    """Loading takes 2.5 to 3.5 s; the first three uses tell what the others will be."""
    found = rows("models-seldom")
    ours, without = found["deepserve"], found["no preload"]
    assert ours.first_p50_s < 0.3 and without.first_p50_s > 1.0
    assert ours.engine_s < 1.05 * without.engine_s, "a template computes nothing; its loading is not done twice"


def test_a_seed_gives_one_table() -> None:
    scenario = MODEL_SCENARIOS["models-code"](Random(3))
    first, again = (run_models(scenario, Random(3), POLICIES["deepserve"]) for _ in range(2))
    assert row_of("a", first) == row_of("a", again)
    assert "| prefix hits |" in model_table([row_of("a", first)])


def test_a_simulated_engine_takes_what_the_cost_model_says() -> None:
    engine = SimulatedEngine(ASSUMED, num_blocks=100, num_seats=4)
    assert engine.add(Sequence("task-1", 1, Prompt(list(range(1010)), 10)), 5.0)
    began_s, over_s = 0.0, 0.0
    while engine.stretch is not None:
        at_s = engine.stretch.end_s
        done = engine.end_stretch()
        engine.check_invariants()
        began_s = at_s if done.report.began else began_s
        over_s = at_s if done.over else over_s
    assert began_s - 5.0 == pytest.approx(ASSUMED.prefill_ms(1000) / 1e3)
    decode_s = sum(ASSUMED.decode_ms([1000 + n]) for n in range(1, 10)) / 1e3
    assert over_s - began_s == pytest.approx(decode_s, rel=0.01)
    engine.add(Sequence("task-2", 1, Prompt(list(range(1040)), 1)), 10.0)
    assert engine.stretch is not None and engine.hit_tokens == 992, "what was computed is preserved, in whole blocks"


def test_an_arrival_joins_after_the_step_that_runs() -> None:
    engine = SimulatedEngine(ASSUMED, num_blocks=100, num_seats=4)
    engine.add(Sequence("task-1", 1, Prompt(list(range(132)), 100)), 0.0)
    assert engine.stretch is not None
    engine.end_stretch()
    assert engine.stretch is not None and engine.stretch.num_steps == 99
    start_s, step_s = engine.stretch.start_s, engine.stretch.step_s
    assert engine.add(Sequence("task-2", 1, Prompt(list(range(500, 532)), 4)), start_s + 2.5 * step_s)
    assert engine.stretch.end_s == pytest.approx(start_s + 3 * step_s)
    engine.end_stretch()
    assert engine.stretch is not None and engine.stretch.chunks == {"task-2": 28}


def test_a_step_that_others_wait_for_is_short_and_an_earlier_turn_has_it_for_itself() -> None:
    """As the engine's own scheduler does it."""
    assert 1000 * TARGET_STEP_S == EngineConfig().target_step_ms
    cost = read_cost("tiny")
    engine = SimulatedEngine(cost, num_blocks=2000, num_seats=32)
    for number in range(30):
        start = number * 10_000
        engine.add(Sequence(f"task-{number}", 1, Prompt(list(range(start, start + 150 + 9 * number)), 60)), 0.0)
    lengths_s = []
    while engine.stretch is not None and len(lengths_s) < 60:
        if engine.stretch.chunks and engine.stretch.decoding:
            lengths_s.append(engine.stretch.step_s)
        engine.end_stretch()
        engine.check_invariants()
    assert max(lengths_s[10:]) < 1.1 * TARGET_STEP_S < lengths_s[0], "as soon as it knows what steps take"
    assert engine.stretch is not None
    engine.add(Sequence("flood", 1, Prompt(list(range(-2000, 0)), 1)), engine.stretch.start_s)
    engine.add(Sequence("ahead", 1, Prompt(list(range(-3000, -2940)), 1), priority=-1), engine.stretch.start_s)
    while "ahead" not in engine.stretch.chunks:
        engine.end_stretch()
    assert engine.stretch.chunks == {"ahead": 59} and not engine.stretch.decoding
    engine.end_stretch()
    assert engine.stretch.chunks.keys() & {"task-28", "flood"} and engine.stretch.decoding


def test_models_start_sooner_where_the_estimate_says_and_engines_may_move() -> None:
    found = [{row.rule: row for row in compare_placement(seed)} for seed in (1, 2, 3)]
    mean_s = {rule: sum(rows[rule].start_mean_s for rows in found) for rule in RULES}
    assert min(mean_s, key=lambda rule: mean_s[rule]) == "least startup time", mean_s
    assert all(rows["least startup time"].moves > 0 for rows in found)
    assert all(rows["least startup time"].error_p50_s < 0.5 for rows in found), "the estimator has learned its links"
    assert placement_table(compare_placement(2)) == placement_table(list(found[1].values()))


def test_one_tenant_that_floods_costs_the_others_no_more_than_half_their_time() -> None:
    alone, one_queue, at_gateway, in_engine = compare_tenants(1)
    assert alone.requests == one_queue.requests == at_gateway.requests == in_engine.requests
    assert at_gateway.first_p99_s < one_queue.first_p99_s / 20
    assert in_engine.first_p50_s <= 1.2 * alone.first_p50_s
    assert in_engine.first_p99_s <= 1.5 * alone.first_p99_s
    assert in_engine.all_done_s <= 1.05 * one_queue.all_done_s, "turns took work that was done already"
    assert "| and in the engine " in tenants_table([in_engine])


def test_samples_of_traces() -> None:
    conversation, code = read_trace("azure_llm_2023_conv"), read_trace("azure_llm_2023_code")
    assert (len(conversation), len(code)) == (5985, 3628)
    assert conversation[0].input_tokens == 374 and 0.0 <= conversation[-1].arrival_s < 1200.0
    slow = read_trace("azure_llm_2023_conv", 60.0, 0.5)
    assert slow == [row._replace(arrival_s=row.arrival_s * 2) for row in conversation[: len(slow)]]
