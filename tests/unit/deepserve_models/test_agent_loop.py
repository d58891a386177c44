"""The agent's decisions, event by event, without a model, a tool or a clock."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Any

import pytest

from deepserve._agent_events import ToolReturned
from deepserve._agent_loop import AgentLoop, AskModel, CallTool, FailRun, FinishRun, ModelAnswered
from deepserve._output import OutputType
from deepserve.errors import MaxTurnsExceeded, OutputTruncated
from deepserve.protocol.model_io import Generated
from tests.unit.deepserve_models.scripted import calls, says

USER = {"role": "user", "content": "q"}


@dataclass
class Report:
    title: str


def loop_of(**options: Any) -> AgentLoop:
    return AgentLoop([USER], **{"max_turns": 4, **options})


def answered(loop: AgentLoop, generated: Generated) -> list[Any]:
    actions = loop.handle(ModelAnswered(generated))
    loop.check_invariants()
    return actions


def returned(loop: AgentLoop, call: CallTool, text: str) -> list[Any]:
    actions = loop.handle(ToolReturned(call.name, text, call.id, text=text))
    loop.check_invariants()
    return actions


def test_answer_at_once() -> None:
    loop = loop_of()
    assert loop.start() == [AskModel([USER])]
    (finish,) = answered(loop, says("a"))
    assert isinstance(finish, FinishRun)
    assert (finish.result.output, finish.result.turns) == ("a", 1)
    assert finish.result.messages == [USER, {"role": "assistant", "content": "a"}]


def test_tools_of_one_turn_are_answered_in_their_order_whatever_order_they_end_in() -> None:
    loop = loop_of()
    loop.start()
    first, second = answered(loop, calls(("add", {"a": 1}), ("mul", {"é": "ü"}), text="Let me see."))
    assert returned(loop, second, "2") == []
    (ask,) = returned(loop, first, "1")
    assert ask.messages[1:] == [
        {
            "role": "assistant",
            "content": "Let me see.",
            "tool_calls": [
                {"id": "c0", "type": "function", "function": {"name": "add", "arguments": '{"a": 1}'}},
                {"id": "c1", "type": "function", "function": {"name": "mul", "arguments": '{"é": "ü"}'}},
            ],
        },
        {"role": "tool", "tool_call_id": "c0", "content": "1"},
        {"role": "tool", "tool_call_id": "c1", "content": "2"},
    ]


def test_ids_that_repeat_are_replaced() -> None:
    loop = loop_of()
    loop.start()
    (first,) = answered(loop, calls(("add", {})))
    returned(loop, first, "1")
    (again,) = answered(loop, calls(("add", {})))
    assert again.id != first.id
    with pytest.raises(ValueError, match="no call 'c0'"):
        loop.handle(ToolReturned("add", "", "c0"))


def test_malformed_call_is_answered_to_the_model() -> None:
    loop = loop_of()
    loop.start()
    (ask,) = answered(loop, calls(malformed=("{oops",)))
    assert ask.messages[1] == {"role": "assistant", "content": "{oops"}
    assert ask.messages[2]["role"] == "user"
    assert "not a valid tool call: {oops" in ask.messages[2]["content"]


def test_turns_run_out_before_the_last_calls_are_made() -> None:
    loop = loop_of(max_turns=2)
    loop.start()
    (call,) = answered(loop, calls(("add", {})))
    returned(loop, call, "1")
    (fail,) = answered(loop, calls(("add", {})))
    assert isinstance(fail, FailRun) and isinstance(fail.error, MaxTurnsExceeded)
    assert [message["role"] for message in vars(fail.error)["messages"]] == ["user", "assistant", "tool", "assistant"]


def test_output_type_without_tools_is_constrained_at_once() -> None:
    output: OutputType[Report] = OutputType(Report)
    loop = loop_of(output=output, has_tools=False)
    assert loop.start() == [AskModel([USER], output.schema)]
    (finish,) = answered(loop, says('{"title": "t"}'))
    assert finish.result.output == Report("t")


def test_free_answer_is_asked_again_under_the_schema_after_the_last_turn_too() -> None:
    output: OutputType[Report] = OutputType(Report)
    loop = loop_of(output=output, max_turns=1)
    loop.start()
    assert answered(loop, says("The title is t.")) == [AskModel([USER], output.schema)]
    (finish,) = answered(loop, says('{"title": "t"}'))
    assert (finish.result.output, finish.result.turns) == (Report("t"), 2)
    assert finish.result.messages == [USER, {"role": "assistant", "content": '{"title": "t"}'}]
    assert finish.result.completion_tokens == len("The title is t.") + len('{"title": "t"}')


def test_free_answer_that_is_a_value_already_is_taken() -> None:
    loop = loop_of(output=OutputType(Report))
    loop.start()
    (finish,) = answered(loop, says('{"title": "t"}'))
    assert (finish.result.output, finish.result.turns) == (Report("t"), 1)


def test_cut_off_output_fails() -> None:
    loop = loop_of(output=OutputType(Report), has_tools=False)
    loop.start()
    (fail,) = answered(loop, says('{"title": "t', "length"))
    assert isinstance(fail.error, OutputTruncated) and fail.error.text == '{"title": "t'


def test_random_dialogues_end_and_keep_the_invariants() -> None:
    for seed in range(300):
        rng = random.Random(seed)
        loop = loop_of(max_turns=rng.randint(1, 5), output=OutputType(Report) if rng.random() < 0.3 else None)
        actions = loop.start()
        for _ in range(100):
            if isinstance(actions[0], FinishRun | FailRun):
                break
            if isinstance(actions[0], AskModel):
                turn = says('{"title": "x"}') if actions[0].json_schema else _some_turn(rng)
                actions = answered(loop, turn)
                continue
            pending = rng.sample(actions, len(actions))
            for call in pending:
                assert isinstance(call, CallTool)
                actions = returned(loop, call, "r")
        else:
            raise AssertionError("the run did not end")
        assert loop.state == "done"


def _some_turn(rng: random.Random) -> Generated:
    if rng.random() < 0.3:
        return says("free answer")
    wanted = [("add", {})] * rng.randint(0, 3)
    return calls(*wanted, malformed=("x",) * (1 if not wanted or rng.random() < 0.2 else 0))
