"""CostModel: what is found in logs whose law is known, what it refuses, and what is asked of it."""

from __future__ import annotations

import random
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flowserve.cost_model import MIN_STEPS, TERMS, CostModel, error_table, fit, kind_of
from flowserve.errors import StepLogError
from flowserve.least_squares import non_negative_fit
from flowserve.rtc.moves import Tier
from flowserve.rtc.rules import fetch_or_recompute
from flowserve.step_record import StepRecord, StepSetting, StepWork

LAW = CostModel(
    coefficients={
        "fixed": 12.0,
        "first_token": 0.05,
        "further_token": 0.9,
        "sequence": 0.2,
        "prefill_pair": 2e-4,
        "decode_pair": 6e-4,
        "logit_row": 0.3,
    },
    knee=16,
    setting=StepSetting(chunk=256, block_size=32),
)


def works(seed: int, num: int) -> list[StepWork]:
    """Decodes, prompts and steps of both, as an engine has them."""
    rng, found = random.Random(seed), []
    for _ in range(num):
        contexts = [rng.randint(1, 2000) for _ in range(rng.choice([0, 1, 2, 4, 8, 16, 32]))]
        chunk = rng.choice([0, 0, 3, 17, 64, 200, 256]) if contexts else rng.randint(2, 256)
        prompt = StepWork.of_prompt(chunk, rng.randint(0, 1000), is_last=rng.random() < 0.5) if chunk else StepWork()
        decodes = StepWork.of_decodes(contexts)
        found.append(
            StepWork(**{name: getattr(prompt, name) + getattr(decodes, name) for name in StepWork.__struct_fields__})
        )
    return found


def log_of(seed: int, num: int, noise: float = 0.0, stalls: float = 0.0) -> list[StepRecord]:
    rng = random.Random(seed + 1)
    records = []
    for number, work in enumerate(works(seed, num), 1):
        ms = LAW.estimate(work) * (1.0 + rng.uniform(-noise, noise)) + (200.0 if rng.random() < stalls else 0.0)
        records.append(StepRecord(number=number, device_ms=ms, **msgspec.structs.asdict(work)))
    return records


def test_an_exact_log_gives_the_law_back() -> None:
    model = fit(log_of(1, 400), LAW.setting)
    assert model.knee == LAW.knee
    for name in TERMS:
        assert model.coefficients[name] == pytest.approx(LAW.coefficients[name], rel=0.02), name
    assert model.error["all"].p90 < 1e-3 and model.error.keys() == {"all", "decode", "prefill", "mixed"}
    assert sum(model.error[kind].num_steps for kind in ("decode", "prefill", "mixed")) == model.error["all"].num_steps


@pytest.mark.parametrize("noise", [0.05, 0.2])
def test_noise_shows_as_error_and_hardly_in_predictions(noise: float) -> None:
    model = fit(log_of(2, 3000, noise))
    assert model.error["all"].median == pytest.approx(noise / 2, rel=0.3)
    assert model.error["all"].p90 == pytest.approx(0.9 * noise, rel=0.3)
    errors = [abs(model.estimate(work) / LAW.estimate(work) - 1.0) for work in works(99, 300)]
    assert sorted(errors)[270] < noise / 4


def test_stalls_of_the_machine_do_not_bend_it() -> None:
    model = fit(log_of(3, 2000, 0.05, stalls=0.05))
    assert all(abs(model.estimate(work) / LAW.estimate(work) - 1.0) < 0.1 for work in works(98, 300))
    assert model.error["all"].bias < 0.0, "the stalls are in the error that is told"


def test_equal_logs_give_equal_models() -> None:
    assert fit(log_of(4, 200, 0.1)) == fit(log_of(4, 200, 0.1))


def test_a_log_of_decodes_alone_predicts_decodes() -> None:
    """Tokens, sequences and rows of logits are the same number there: what each costs is open, their sum is not."""
    decodes = [record for record in log_of(5, 3000) if kind_of(record) == "decode"]
    model = fit(decodes)
    assert model.error["all"].p90 < 0.01
    assert not model.covers(StepWork.of_prompt(100)) and model.covers(StepWork.of_decodes([50, 60]))


def test_logs_that_tell_too_little() -> None:
    with pytest.raises(StepLogError, match=f"{MIN_STEPS - 1} steps are too few"):
        fit(log_of(6, MIN_STEPS - 1))
    with pytest.raises(StepLogError, match="0 steps are too few"):
        fit([])
    same = [StepRecord(number=n, device_ms=5.0 + n / 100, decode_sequences=1, num_sequences=1) for n in range(100)]
    with pytest.raises(StepLogError, match="all 100 steps are of the same size"):
        fit(same)


def test_a_long_log_is_thinned() -> None:
    short = log_of(7, 500)
    assert fit(short * 100).num_steps == 5_556


def test_what_the_simulator_asks() -> None:
    assert LAW.decode_ms([10]) == pytest.approx(12 + 0.05 + 0.2 + 10 * 6e-4 + 0.3)
    assert LAW.decode_ms([10] * 32) > LAW.decode_ms([10] * 16)
    whole = LAW.prefill_ms(600)
    chunks = [(256, 0, False), (256, 256, False), (88, 512, True)]
    assert whole == pytest.approx(sum(LAW.estimate(StepWork.of_prompt(n, at, is_last=last)) for n, at, last in chunks))
    assert LAW.prefill_ms(600, 1000) > whole
    assert LAW.prefill_ms(256) == pytest.approx(12 + 16 * 0.05 + 240 * 0.9 + 0.2 + 256 * 257 / 2 * 2e-4 + 0.3)


def test_what_the_cache_asks() -> None:
    slow, fast = LAW.cost_view({Tier.HOST: 1.0}), LAW.cost_view({Tier.HOST: 0.001})
    row_ms = LAW.coefficients["logit_row"]  # which computing a part of a prompt does not need
    for context, num_tokens in ((0, 256), (0, 1024), (5000, 512)):
        expected_ms = LAW.prefill_ms(num_tokens, context) - row_ms
        assert slow.recompute_s(context, num_tokens) == pytest.approx(expected_ms / 1000)
    assert fetch_or_recompute([Tier.HOST] * 3, 32, slow).num_blocks == 0
    assert fetch_or_recompute([Tier.HOST] * 3, 32, fast).num_blocks == 3


def test_behind_a_long_prefix_more_is_worth_fetching() -> None:
    """A token's attention looks at all that come before it."""
    block_s = LAW.cost_view({}).recompute_s(0, 32)
    costs = LAW.cost_view({Tier.HOST: 2 * block_s})
    assert fetch_or_recompute([Tier.HOST], 32, costs, context=1024).num_blocks == 0
    assert fetch_or_recompute([Tier.HOST], 32, costs, context=100_000).num_blocks == 1
    windowed = msgspec.structs.replace(LAW, setting=msgspec.structs.replace(LAW.setting, window=64))
    view = windowed.cost_view({Tier.HOST: 2 * block_s})
    assert fetch_or_recompute([Tier.HOST], 32, view, context=100_000).num_blocks == 0


def test_saved_and_loaded(tmp_path: Path) -> None:
    model = fit(log_of(8, 300, 0.1), LAW.setting)
    model.save(tmp_path / "cost.json")
    assert CostModel.load(tmp_path / "cost.json") == model
    with pytest.raises(StepLogError, match="nothing.json"):
        CostModel.load(tmp_path / "nothing.json")
    for damage in (("first_token", "first_tokens"), ('"knee": ', '"knee": -'), ('"fixed": ', '"fixed": -'), ("{", "")):
        (tmp_path / "bad.json").write_text((tmp_path / "cost.json").read_text().replace(*damage))
        with pytest.raises(StepLogError, match="bad.json is no cost model"):
            CostModel.load(tmp_path / "bad.json")


def test_the_table_names_every_term() -> None:
    table = error_table(fit(log_of(9, 300, 0.1)))
    for words in ("median", "p90", "decode", "prefill", "mixed", "tokens, each", "further token", "logit row"):
        assert words in table


def test_it_needs_no_torch() -> None:
    code = "import sys, flowserve.cost_model; print([m for m in ('torch', 'numpy') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "[]"


@given(
    st.lists(st.sampled_from([0.0, 0.001, 1.0, 50.0]), min_size=4, max_size=4),
    st.integers(0, 10_000),
)
@settings(derandomize=True, deadline=None, max_examples=60)
def test_non_negative_fit_finds_what_made_the_values(wanted: list[float], seed: int) -> None:
    rng = random.Random(seed)
    rows = [[1.0, rng.uniform(0, 10), rng.uniform(0, 1e4), rng.uniform(0, 1e-2)] for _ in range(40)]
    found = non_negative_fit(((row, sum(x * c for x, c in zip(row, wanted, strict=True))) for row in rows), 4)
    values = [sum(x * c for x, c in zip(row, wanted, strict=True)) for row in rows]
    scale = max(values) or 1.0
    for row, value in zip(rows, values, strict=True):
        assert sum(x * c for x, c in zip(row, found, strict=True)) == pytest.approx(value, abs=1e-5 * scale)


@given(st.integers(0, 10_000))
@settings(derandomize=True, deadline=None, max_examples=60)
def test_non_negative_fit_is_the_best_there_is(seed: int) -> None:
    """The conditions of Karush, Kuhn and Tucker: no slope downwards where a coefficient may still grow."""
    rng = random.Random(seed)
    rows = [([rng.gauss(0, 1) for _ in range(5)], rng.gauss(0, 1)) for _ in range(12)]
    found = non_negative_fit(rows, 5)
    assert all(value >= 0.0 for value in found)
    for column in range(5):
        slope = sum(row[column] * (value - sum(x * c for x, c in zip(row, found, strict=True))) for row, value in rows)
        assert abs(slope) < 1e-6 if found[column] > 0.0 else slope < 1e-6


def test_equal_columns_share() -> None:
    found = non_negative_fit([([x, x, 0.0], 3.0 * x) for x in (1.0, 2.0, 5.0)], 3)
    assert sum(found[:2]) == pytest.approx(3.0) and found[2] == 0.0
