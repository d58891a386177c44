"""What an LLM generates: ends, stop strings, streams and chats; and what is no prompt."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from flowserve import SamplingParams, StructuredOutputsParams
from flowserve.errors import (
    FlowServeError,
    InvalidRequestError,
    InvalidSamplingParamsError,
    PromptTooLongError,
)

PROMPT = [301, 48, 182, 7]
Build = Callable[..., Any]


def greedy(**params: Any) -> SamplingParams:
    return SamplingParams(temperature=0.0, **{"ignore_eos": True, **params})


def with_eos(models: Build, folder: Path, token_ids: list[int]) -> Path:
    """The tiny Llama, saying that these tokens end a sequence."""
    shutil.copytree(models(), folder)
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": token_ids}))
    return folder


def complete(llm: Any, params: SamplingParams, prompt: Any = None) -> Any:
    return llm.generate([prompt or PROMPT], params)[0].outputs[0]


def test_end_of_sequence(models: Build, llm: Build, tmp_path: Path) -> None:
    tokens = complete(llm(), greedy(max_tokens=20)).token_ids
    each = llm(with_eos(models, tmp_path / "m", [tokens[7], tokens[5]]))
    ended = complete(each, greedy(ignore_eos=False))
    end = min(tokens.index(tokens[7]), tokens.index(tokens[5]))
    assert ended.token_ids == tokens[: end + 1] and ended.finish_reason == "stop"
    assert ended.text == each.engine.tokenizer.decode(tokens[:end])
    assert complete(each, greedy(max_tokens=20)).token_ids == tokens
    later = complete(each, greedy(ignore_eos=False, min_tokens=10, max_tokens=30))
    assert len(later.token_ids) >= 10 and later.token_ids[:end] == tokens[:end]
    assert not {tokens[7], tokens[5]} & set(later.token_ids[:10])


def test_stop_token_ids(llm: Build) -> None:
    each = llm()
    tokens = complete(each, greedy(max_tokens=20)).token_ids
    ended = complete(each, greedy(stop_token_ids=[tokens[3]]))
    assert ended.token_ids == tokens[: tokens.index(tokens[3]) + 1] and ended.finish_reason == "stop"


def test_stop_strings_are_cut_out_wherever_they_fall(llm: Build) -> None:
    each = llm()
    text = complete(each, greedy(max_tokens=60)).text
    tested = 0
    for start in range(2, len(text) - 4):
        stop = text[start : start + 3]
        if "\ufffd" in stop:
            continue
        ended = complete(each, greedy(max_tokens=60, stop=["never there", stop]))
        assert ended.text == text[: text.index(stop)] and ended.finish_reason == "stop"
        assert len(ended.token_ids) < 60 or text.endswith(stop)
        tested += 1
    assert tested > 10


def test_text_that_only_begins_like_a_stop_string_is_shown(llm: Build) -> None:
    each = llm()
    whole = complete(each, greedy(max_tokens=40))
    assert complete(each, greedy(max_tokens=40, stop=[whole.text[-3:] + "x"])).text == whole.text


def test_length(llm: Build) -> None:
    each = llm(max_model_len=64)
    assert len(complete(each, greedy(max_tokens=1)).token_ids) == 1
    for max_tokens in (None, 1000):
        output = complete(each, greedy(max_tokens=max_tokens))
        assert len(output.token_ids) == 64 - len(PROMPT) and output.finish_reason == "length"
    assert len(complete(each, greedy(), list(range(3, 66))).token_ids) == 1


def test_stream_gives_the_same_text_in_pieces(llm: Build) -> None:
    each, params = llm(), greedy(max_tokens=80)
    pieces = list(each.stream(PROMPT, params))
    assert "".join(pieces) == complete(each, params).text and len(pieces) > 20
    assert all(pieces)


def test_requests_inside_the_loop_over_a_stream(llm: Build) -> None:
    each = llm()
    params = greedy(max_tokens=6)
    texts = [complete(each, params, prompt).text for prompt in ("Once upon", "A dog")]
    together = list(zip(each.stream("Once upon", params), each.stream("A dog", params), strict=False))
    assert together and texts[0].startswith("".join(first for first, _ in together))
    assert texts[1].startswith("".join(second for _, second in together))
    pieces = []
    for piece in each.stream("Once upon", params):
        pieces.append(piece)
        assert complete(each, params, "A dog").text == texts[1]
    assert "".join(pieces) == texts[0]


def test_an_output_that_the_engine_gave_up_says_why(llm: Build, monkeypatch: pytest.MonkeyPatch) -> None:
    each = llm()
    monkeypatch.setattr("flowserve.structured.GrammarMatcher.error", "no token may follow")
    params = greedy(max_tokens=6, structured_outputs=StructuredOutputsParams(choice=["yes", "no"]))
    given_up = complete(each, params)
    assert (given_up.finish_reason, given_up.error) == ("abort", "no token may follow")
    with pytest.raises(FlowServeError, match="no token may follow"):
        list(each.stream(PROMPT, params))


def test_leaving_a_stream_frees_everything(llm: Build) -> None:
    each = llm()
    for _ in each.stream("Once upon", greedy()):
        break
    assert not each.engine.has_work


def test_chat_renders_and_completes(llm: Build) -> None:
    each = llm()
    messages = [{"role": "user", "content": "hi"}]
    (one,) = each.chat(messages, greedy(max_tokens=5))
    assert one.prompt == "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n"
    assert one.prompt_token_ids == each.engine.tokenizer.encode(one.prompt, add_special_tokens=False)
    several = each.chat([messages, messages], greedy(max_tokens=5))
    assert [output.outputs[0].token_ids for output in several] == [one.outputs[0].token_ids] * 2
    assert "".join(each.stream(messages, greedy(max_tokens=5))) == one.outputs[0].text


@pytest.mark.parametrize(
    ("messages", "words"),
    [
        ("hi", "messages must be a list of dicts.*got a str"), ({"role": "user", "content": "hi"}, "got a dict"),
        (None, "got None"), ([], "no messages"), ([[]], "conversation 0: there are no messages"),
        (["hi"], r"messages\[0\]"),
        ([{"content": "hi"}], r"messages\[0\].role must be one of system, developer, user"),
        ([{"role": "user", "content": "a"}, {"role": "user"}], r"messages\[1\].content is missing"),
        ([{"role": "robot", "content": "hi"}], "got 'robot'"), ([{"role": "user", "content": 5}], "got a int"),
        ([[{"role": "user", "content": "hi"}], [{"role": "robot", "content": "x"}]], r"conversation 1: messages\[0\]"),
        ([{"role": "user", "content": [{"type": "image_url"}]}], r"messages\[0\].content\[0\] .*type 'image_url'"),
    ],
)  # fmt: skip
def test_messages_that_no_template_should_see(llm: Build, messages: Any, words: str) -> None:
    each = llm()
    with pytest.raises(InvalidRequestError, match=words):
        each.chat(messages, greedy(max_tokens=1))
    assert not each.engine.has_work


def test_a_developer_speaks_as_the_system_does(llm: Build) -> None:
    (output,) = llm().chat([{"role": "developer", "content": "hi"}], greedy(max_tokens=1))
    assert output.prompt.startswith("<|im_start|>system\nhi")


@pytest.mark.parametrize(
    ("prompts", "words"),
    [([1, 2, 3], "another pair of brackets"), (b"x", "got a bytes"), (None, "got None"), (5, "got a int"),
     ({"prompt": "a"}, "got a dict"), (["a", 1.5], "prompt 1 .*got a float"),
     ([{"prompt": "a"}], "prompt 0 .*got a dict")],
)  # fmt: skip
def test_prompts_that_are_none(llm: Build, prompts: Any, words: str) -> None:
    with pytest.raises(InvalidRequestError, match=words):
        llm().generate(prompts)


@pytest.mark.parametrize(
    ("prompt", "words"),
    [(["a", "b"], "one prompt, got a list of 2"), ([[1], [2]], "one prompt"), (b"x", "got a bytes"), (None, "got None"),
     ([{"role": "robot", "content": "a"}], "robot")],
)  # fmt: skip
def test_a_stream_is_of_one_prompt(llm: Build, prompt: Any, words: str) -> None:
    each = llm()
    with pytest.raises(InvalidRequestError, match=words):
        list(each.stream(prompt))
    assert not each.engine.has_work


@pytest.mark.parametrize("params", [{"max_tokens": 2}, 5, [{"max_tokens": 2}], "greedy"])
def test_params_of_another_type_are_refused(llm: Build, params: Any) -> None:
    each = llm()
    for ask in (each.generate, each.stream):
        with pytest.raises(InvalidRequestError, match="must be SamplingParams"):
            list(ask("a", params))
    with pytest.raises(InvalidRequestError, match="must be SamplingParams"):
        each.engine.add("a", PROMPT, params)
    assert not each.engine.has_work


def test_prompts_and_params_pair_up(llm: Build) -> None:
    each = llm()
    outputs = each.generate(["Once upon", PROMPT], [greedy(max_tokens=2), greedy(max_tokens=4, logprobs=1)])
    assert [len(output.outputs[0].token_ids) for output in outputs] == [2, 4]
    assert [output.prompt for output in outputs] == ["Once upon", None]
    assert outputs[0].outputs[0].logprobs is None and len(outputs[1].outputs[0].logprobs) == 4
    with pytest.raises(InvalidRequestError, match="2 prompts but 1"):
        each.generate(["a", "b"], [greedy()])


def test_one_bad_prompt_runs_none(llm: Build) -> None:
    each = llm(max_model_len=50)
    with pytest.raises(PromptTooLongError):
        each.generate([PROMPT, list(range(3, 90))], greedy())
    assert not each.engine.has_work and each.engine.stats().num_steps == 0


def test_several_completions_of_a_prompt(llm: Build) -> None:
    each = llm(max_num_sequences=3)
    params = SamplingParams(n=5, seed=3, max_tokens=12, ignore_eos=True, logprobs=0)
    several, other = each.generate([PROMPT * 20, PROMPT], [params, greedy(max_tokens=4)])
    assert [output.index for output in several.outputs] == [0, 1, 2, 3, 4]
    assert len({tuple(output.token_ids) for output in several.outputs}) == 5
    assert all(len(output.token_ids) == len(output.logprobs) == 12 for output in several.outputs)
    assert all(output.text and output.finish_reason == "length" for output in several.outputs)
    assert len(other.outputs) == 1 and other.finished
    alone = complete(each, SamplingParams(seed=3, max_tokens=12, ignore_eos=True), PROMPT * 20)
    assert alone.token_ids == several.outputs[0].token_ids, "the first is what n=1 gives"
    again = llm(max_num_batched_tokens=5).generate([PROMPT * 20], params)[0]
    assert [output.token_ids for output in again.outputs] == [output.token_ids for output in several.outputs]
    with pytest.raises(InvalidRequestError, match="n must be 1, got 5"):
        list(each.stream(PROMPT, params))


def test_bad_words_and_bias(llm: Build) -> None:
    each = llm()
    text = complete(each, greedy(max_tokens=40)).text
    words = [word for word in text.split() if len(word) > 1 and "\ufffd" not in word][:4]
    for word in words:
        assert complete(each, greedy(max_tokens=40, bad_words=[word])).text != text
    assert set(complete(each, greedy(max_tokens=5, logit_bias={77: 100})).token_ids) == {77}
    with pytest.raises(InvalidSamplingParamsError, match="logit_bias names the token 400"):
        complete(each, greedy(logit_bias={"400": 1}))
    with pytest.raises(InvalidSamplingParamsError, match="stop_token_ids names the token 400, .* vocabulary of 400"):
        complete(each, greedy(stop_token_ids=[399, 400]))


def test_stop_strings_may_stay_and_wait_for_min_tokens(llm: Build) -> None:
    each = llm()
    text = complete(each, greedy(max_tokens=60)).text
    stop = next(text[i : i + 2] for i in range(10, len(text)) if "\ufffd" not in text[i : i + 2])
    kept = complete(each, greedy(max_tokens=60, stop=stop, include_stop_str_in_output=True))
    assert kept.text == text[: text.index(stop) + 2] and kept.finish_reason == "stop"
    late = complete(each, greedy(max_tokens=60, stop=stop, min_tokens=60))
    assert late.text in (text, text.removesuffix(stop)) and len(late.token_ids) == 60
    silent = complete(each, greedy(max_tokens=60, detokenize=False))
    assert silent.text == "" and len(silent.token_ids) == 60


def test_thousands_of_stop_strings(llm: Build) -> None:
    each = llm()
    text = complete(each, greedy(max_tokens=40)).text
    never = [f"{text[:3]}{number}" for number in range(5000) if f"{text[:3]}{number}" not in text]
    assert complete(each, greedy(max_tokens=40, stop=never)).text == text
