"""Vectors from an engine that generates: those of EmbeddingModel, from the engine's weights, in its steps."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from flowserve import EmbeddingModel, SamplingParams
from flowserve.embedding_queue import EmbeddingOutcome
from flowserve.engine_texts import EngineTexts
from flowserve.errors import EngineAsleepError, EngineClosedError, InvalidPromptError, PromptTooLongError

ARCHITECTURES = ["llama", "mistral", "phi3", "qwen2", "qwen3"]
GREEDY = SamplingParams(max_tokens=12, temperature=0.0, ignore_eos=True)


def random_texts(lengths: list[int]) -> list[list[int]]:
    torch.manual_seed(5)
    return [torch.randint(5, 400, (length,)).tolist() for length in lengths]


def likeness(one: list[list[float]], other: list[list[float]]) -> float:
    """The smallest cosine of vectors of the same text."""
    return float(torch.nn.functional.cosine_similarity(torch.tensor(one), torch.tensor(other)).min())


@pytest.mark.parametrize("cpu_backend", ["auto", "torch"])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_vectors_are_those_of_the_embedding_model(
    architecture: str, cpu_backend: str, models: Callable[..., Path], llm: Callable[..., Any]
) -> None:
    """Of texts that one step does not hold, too; a long one is prefilled like a prompt."""
    texts: list[Any] = [*random_texts([1, 2, 31, 32, 33, 64, 200]), "The quick brown fox"]
    each = llm(models(architecture), cpu_backend=cpu_backend, max_num_batched_tokens=48)
    expected = EmbeddingModel(models(architecture), num_threads=1).embed(texts)
    for vector, want in zip(each.embed(texts), expected, strict=True):
        assert vector == pytest.approx(want, abs=1e-4)


@pytest.mark.parametrize(
    "options", [{"quantization": "int8"}, {"quantization": "int4"}, {"dtype": "bfloat16"}, {"overlap": True}]
)
def test_whatever_the_weights_are_kept_as(
    options: dict[str, Any], models: Callable[..., Path], llm: Callable[..., Any]
) -> None:
    texts = random_texts([3, 40, 90])
    exact = EmbeddingModel(models(), num_threads=1).embed(texts)
    least = 0.8 if options.get("quantization") == "int4" else 0.99
    assert likeness(llm(**options).embed(texts), exact) > least


def test_an_llm_embeds_within_its_context(models: Callable[..., Path], llm: Callable[..., Any]) -> None:
    each = llm(max_model_len=50)
    [whole] = each.embed([[5] * 50])
    assert whole == pytest.approx(EmbeddingModel(models(), num_threads=1).embed([[5] * 50])[0], abs=1e-4)
    assert each.embed([[5] * 70], truncate=True)[0] == pytest.approx(whole, abs=1e-5)
    assert each.embed([]) == []
    with pytest.raises(PromptTooLongError, match="text 0 has 51 tokens, the model takes 50"):
        each.embed([[5] * 51])
    with pytest.raises(InvalidPromptError, match="text 1 is empty"):
        each.embed(["one", []])
    each.sleep()
    with pytest.raises(EngineAsleepError):
        each.embed("one")
    each.wake_up()
    assert each.embed([[5] * 50])[0] == pytest.approx(whole, abs=1e-5)
    each.close()
    with pytest.raises(EngineClosedError):
        each.embed("one")


def test_texts_leave_what_is_cached_of_prompts(llm: Callable[..., Any]) -> None:
    each = llm(num_kv_blocks=8, max_model_len=128)
    prompt = random_texts([100])[0]
    [first] = each.generate([prompt], GREEDY)
    each.embed(random_texts([60] * 20))
    [again] = each.generate([prompt], GREEDY)
    assert again.num_cached_tokens >= 64 and again.outputs[0].token_ids == first.outputs[0].token_ids


def test_a_prompt_may_have_both_its_state_and_an_answer(models: Callable[..., Path], llm: Callable[..., Any]) -> None:
    engine = llm().engine
    prompt = random_texts([40])[0]
    engine.add("both", prompt, GREEDY, wants_hidden=True)
    outputs = []
    while engine.has_work:
        outputs += engine.step()
    assert [output.hidden is not None for output in outputs] == [True] + [False] * 11
    hidden = torch.nn.functional.normalize(torch.tensor(outputs[0].hidden), dim=-1)
    want = EmbeddingModel(models(), num_threads=1).embed([prompt])[0]
    assert hidden.tolist() == pytest.approx(want, abs=1e-4)


# --- many requests on one engine -----------------------------------------------------------------------


def run(engine: Any, texts: EngineTexts[str], num_steps: int = 10_000) -> tuple[list[EmbeddingOutcome[str]], list[Any]]:
    """What of texts has ended, and the outputs of what is generated."""
    outcomes, outputs = [], []
    for _ in range(num_steps):
        outcomes += texts.advance()
        if not engine.has_work:
            break
        outputs += [output for output in engine.step() if not texts.take(output)]
    return outcomes, outputs


def test_requests_have_turns_and_answers_go_on(models: Callable[..., Path], llm: Callable[..., Any]) -> None:
    engine = llm(max_num_batched_tokens=32).engine
    alone: list[int] = []
    engine.add("alone", [7, 8, 9], GREEDY)
    while engine.has_work:
        alone += [token for output in engine.step() for token in output.token_ids]
    texts: EngineTexts[str] = EngineTexts(engine)
    asked = {"long": random_texts([30] * 40), "short": random_texts([9])}
    texts.add("long", asked["long"])
    run(engine, texts, 2)
    texts.add("short", asked["short"])
    engine.add("answer", [7, 8, 9], GREEDY)
    outcomes, outputs = run(engine, texts, 16)
    assert [outcome.key for outcome in outcomes] == ["short"]
    assert [token for output in outputs for token in output.token_ids] == alone
    outcomes += run(engine, texts)[0]
    model = EmbeddingModel(models(), num_threads=1)
    for outcome in outcomes:
        for vector, want in zip(outcome.vectors, model.embed(asked.pop(outcome.key)), strict=True):
            assert vector == pytest.approx(want, abs=1e-4)
    assert not asked and texts.is_empty


def test_what_is_dropped_is_not_computed(llm: Callable[..., Any]) -> None:
    engine = llm(max_num_batched_tokens=32).engine
    texts: EngineTexts[str] = EngineTexts(engine)
    texts.add("left", random_texts([30] * 40))
    run(engine, texts, 2)
    texts.drop("left")
    texts.drop("nobody")
    assert texts.is_empty and not engine.has_work and run(engine, texts) == ([], [])


def test_a_text_that_cannot_be_ends_its_request_alone(llm: Callable[..., Any]) -> None:
    engine = llm(max_model_len=60).engine
    texts: EngineTexts[str] = EngineTexts(engine)
    texts.add("too long", random_texts([20, 80, 20]))
    texts.add("whole", random_texts([50]))
    outcomes = {outcome.key: outcome for outcome in run(engine, texts)[0]}
    assert "does not fit the context of 60 tokens" in str(outcomes["too long"].error)
    assert outcomes["whole"].error is None and len(outcomes["whole"].vectors) == 1


def test_a_broken_step_is_told(llm: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    engine = llm().engine
    texts: EngineTexts[str] = EngineTexts(engine)
    texts.add("broken", random_texts([20]))
    monkeypatch.setattr(engine._worker._runner, "run", lambda *arguments: 1 // 0)
    [outcome] = run(engine, texts)[0]
    assert "ZeroDivisionError" in str(outcome.error) and texts.is_empty
