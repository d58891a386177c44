"""Agents over a scripted model: tools that run here or as remote calls, events, errors, both drivers."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from deepserve._agent import Agent
from deepserve._agent_events import AgentEvent, AgentFinished, AgentResult, ModelDelta, ToolCalled, ToolReturned
from deepserve._entry import Entry
from deepserve._tool import tool
from deepserve.errors import ControllerLost, InvalidOption, MaxTurnsExceeded
from tests.unit.deepserve_models.scripted import ScriptedModel, calls, says


@tool
def add(a: int, b: int) -> int:
    """Add two whole numbers."""
    return a + b


@tool
async def weather(city: str) -> dict[str, Any]:
    await asyncio.sleep(0)
    return {"city": city, "°C": 21}


@tool
def fail(text: str) -> str:
    raise KeyError(text)


@dataclass
class Answer:
    sum: int


def agent_of(model: ScriptedModel, *tools: Callable[..., Any], **options: Any) -> Agent[Any]:
    return Agent("clerk", model=model, tools=tools, **options)  # type: ignore[arg-type]


def run_sync(agent: Agent[Any], prompt: Any) -> AgentResult[Any]:
    return agent.run(prompt)


def run_async(agent: Agent[Any], prompt: Any) -> AgentResult[Any]:
    return asyncio.run(agent.run.aio(prompt))


both = pytest.mark.parametrize("run", [run_sync, run_async])
Run = Callable[[Agent[Any], Any], AgentResult[Any]]


@both
def test_tools_then_answer(run: Run) -> None:
    model = ScriptedModel(calls(("add", {"a": "1", "b": 2}), ("weather", {"city": "Rome"})), says("It is 3."))
    result = run(agent_of(model, add, weather, instructions="Be brief."), "1 + 2?")
    assert (result.output, result.text, result.turns) == ("It is 3.", "It is 3.", 2)
    assert model.asked[0].messages[0] == {"role": "system", "content": "Be brief."}
    assert model.asked[0].tools == [add.definition, weather.definition]
    by_name = {call.name: call for call in result.tool_calls}
    assert (by_name["add"].result, by_name["add"].text, by_name["add"].where) == (3, "3", "here")
    assert by_name["weather"].text == '{"city": "Rome", "°C": 21}'
    assert [message["role"] for message in result.messages] == "system user assistant tool tool assistant".split()


@both
def test_what_goes_wrong_is_told_to_the_model(run: Run) -> None:
    model = ScriptedModel(
        calls(("add", {"a": "x", "b": 2}), ("fail", {"text": "k"}), ("none", {}), malformed=("{",)), says("Sorry.")
    )
    result = run(agent_of(model, add, fail), "?")
    texts = [message["content"] for message in model.asked[1].messages[2:]]
    assert texts[0].startswith("error: add: argument 'a': Input should be a valid integer")
    assert texts[1] == "error: KeyError: 'k'"
    assert texts[2] == "error: there is no tool 'none'; the tools are: add, fail"
    assert texts[3].startswith("error: this is not a valid tool call: {")
    assert (result.output, result.tool_errors) == ("Sorry.", 3)


@both
def test_whatever_a_tool_returns_or_raises_can_be_sent_to_the_model(run: Run) -> None:
    class Mute(Exception):
        def __str__(self) -> str:
            raise RuntimeError("mute")

    endless: list[Any] = []
    endless.append(endless)
    returned = [object(), {(1, 2): 3}, endless, "caf\udce9", ["caf\udce9"], 10**40]

    @tool
    def give(index: int) -> Any:
        return returned[index]

    @tool
    def lose(name: str) -> str:
        raise Mute if name == "mute" else FileNotFoundError("caf\udce9")

    wanted = [("give", {"index": index}) for index in range(len(returned))]
    model = ScriptedModel(calls(*wanted, ("lose", {"name": "mute"}), ("lose", {"name": "file"})), says("Done."))
    result = run(agent_of(model, give, lose), "?")
    assert msgspec.msgpack.encode(model.asked[1])
    texts = [message["content"] for message in model.asked[1].messages[2:]]
    assert [text.split(":")[0] for text in texts[:3]] == ["error"] * 3
    assert texts[3:6] == ["caf?", '["caf?"]', str(10**40)]
    assert texts[6:] == ["error: Mute: (its text cannot be made)", "error: FileNotFoundError: caf?"]
    assert (result.output, result.tool_errors) == ("Done.", 5)


@both
def test_structured_output_after_tools(run: Run) -> None:
    model = ScriptedModel(calls(("add", {"a": 1, "b": 2})), says("It is 3."), says('{"sum": 3}'))
    result = run(agent_of(model, add, output_type=Answer), "?")
    assert result.output == Answer(3)
    assert model.asked[1].params.json_schema is None
    assert model.asked[2].params.json_schema is not None
    assert model.asked[2].messages == model.asked[1].messages


@both
def test_tools_of_one_turn_run_side_by_side(run: Run) -> None:
    barrier = threading.Barrier(3, timeout=30)

    def meet(number: int) -> int:
        barrier.wait()
        return number

    model = ScriptedModel(calls(*[("meet", {"number": n}) for n in range(3)]), says("met"))
    result = run(agent_of(model, meet), "?")
    assert [call.text for call in sorted(result.tool_calls, key=lambda call: call.id)] == ["0", "1", "2"]


class FakeCall:
    def __init__(self, function: Callable[..., Any], arguments: dict[str, Any]) -> None:
        self._work = lambda: function(**arguments)
        self.timings = SimpleNamespace(pod_id="pod-7", total_ms=12.5)
        self.is_cancelled = False
        self.get = _Verb(self._work, self._get_aio)

    async def _get_aio(self) -> Any:
        return self._work()

    def cancel(self) -> None:
        self.is_cancelled = True


class _Verb:
    def __init__(self, now: Callable[..., Any], later: Callable[..., Any]) -> None:
        self._now = now
        self.aio = later

    def __call__(self, **arguments: Any) -> Any:
        return self._now(**arguments)


class FakeFunction:
    """As much of a `@deepserve.function` as a tool needs."""

    def __init__(self, target: Callable[..., Any]) -> None:
        self.__deepserve_entry__ = Entry(target)
        self.calls: list[FakeCall] = []
        self.spawn = _Verb(self._spawn, self._spawn_aio)

    def __call__(self) -> None:
        raise AssertionError("called here")

    def _spawn(self, **arguments: Any) -> FakeCall:
        self.calls.append(FakeCall(self.__deepserve_entry__.target, arguments))
        return self.calls[-1]

    async def _spawn_aio(self, **arguments: Any) -> FakeCall:
        return self._spawn(**arguments)


@both
def test_functions_run_in_their_pods(run: Run) -> None:
    def fetch(url: str) -> str:
        if url == "bad":
            raise ConnectionError("refused")
        return f"page {url}"

    remote = FakeFunction(fetch)
    model = ScriptedModel(
        calls(("fetch", {"url": "u"}), ("fetch", {"url": "bad"}), ("fetch", {}), ("add", {"a": 1, "b": 1})), says("ok")
    )
    result = run(agent_of(model, remote, add), "?")
    by_id = {call.id: call for call in result.tool_calls}
    assert (by_id["c0"].text, by_id["c0"].where, by_id["c0"].ms) == ("page u", "pod-7", 12.5)
    assert (by_id["c1"].text, by_id["c1"].where) == ("error: ConnectionError: refused", "pod-7")
    assert by_id["c2"].text == "error: fetch: argument 'url' is missing (it takes: url)"
    assert by_id["c3"].where == "here"
    assert len(remote.calls) == 2


@both
def test_a_lost_controller_ends_the_run(run: Run) -> None:
    def lose() -> str:
        raise ControllerLost("gone")

    with pytest.raises(ControllerLost):
        run(agent_of(ScriptedModel(calls(("lose", {}), ("lose", {})), says("")), lose), "?")


@both
def test_a_dialogue_whose_calls_have_no_ids(run: Run) -> None:
    said = {"role": "assistant", "content": "", "tool_calls": [{"function": {"name": "add", "arguments": "{}"}}]}
    model = ScriptedModel(calls(("add", {"a": 1, "b": 1})), says("2"))
    assert run(agent_of(model, add), [{"role": "user", "content": "1+1?"}, said]).output == "2"


@both
def test_too_many_turns(run: Run) -> None:
    model = ScriptedModel(*[calls(("add", {"a": 1, "b": 1}))] * 3)
    with pytest.raises(MaxTurnsExceeded, match="no answer within max_turns=2, after 1 tool calls") as caught:
        run(agent_of(model, add, max_turns=2), "?")
    assert [message["role"] for message in vars(caught.value)["messages"]] == "user assistant tool assistant".split()


@both
def test_a_dialogue_goes_on_with_its_messages(run: Run) -> None:
    model = ScriptedModel(says("Ada."), says("1815."))
    agent = agent_of(model, instructions="Be brief.")
    first = run(agent, "Who?")
    run(agent, [*first.messages, {"role": "user", "content": "Born?"}])
    assert [message["content"] for message in model.asked[1].messages] == ["Be brief.", "Who?", "Ada.", "Born?"]


def events_sync(agent: Agent[Any]) -> list[AgentEvent[Any]]:
    return list(agent.stream("?"))


def events_async(agent: Agent[Any]) -> list[AgentEvent[Any]]:
    async def collect() -> list[AgentEvent[Any]]:
        return [event async for event in agent.stream.aio("?")]

    return asyncio.run(collect())


@pytest.mark.parametrize("events", [events_sync, events_async])
def test_stream_tells_everything_in_order(events: Callable[[Agent[Any]], list[AgentEvent[Any]]]) -> None:
    model = ScriptedModel(calls(("add", {"a": 1, "b": 2}), text="Well."), says("It is 3."))
    told = events(agent_of(model, add))
    kinds = [type(event) for event in told]
    assert kinds == [ModelDelta, ToolCalled, ToolReturned, ModelDelta, ModelDelta, ModelDelta, AgentFinished]
    assert told[:2] == [ModelDelta("Well.", 1), ToolCalled("add", {"a": 1, "b": 2}, "c0")]
    assert isinstance(told[2], ToolReturned) and (told[2].result, told[2].id) == (3, "c0")
    assert isinstance(told[-1], AgentFinished) and told[-1].result.output == "It is 3."


def test_leaving_the_stream_early_closes_the_models_stream() -> None:
    model = ScriptedModel(says("one two three"))
    for event in agent_of(model).stream("?"):
        assert event == ModelDelta("one", 1)
        break
    assert model.streams[0].is_closed


def test_leaving_the_stream_early_cancels_calls_in_pods() -> None:
    remote = FakeFunction(_slow)
    model = ScriptedModel(calls(("add", {"a": 1, "b": 1}), ("_slow", {"seconds": 10.0})))
    for event in agent_of(model, add, remote).stream("?"):
        if isinstance(event, ToolReturned):
            break
    assert remote.calls[0].is_cancelled


def _slow(seconds: float) -> None:
    time.sleep(seconds)


def test_wrong_options() -> None:
    for options in ({"max_turns": 0}, {"max_turns": True}, {"output_type": object}):
        with pytest.raises(InvalidOption):
            agent_of(ScriptedModel(), **options)
    with pytest.raises(InvalidOption, match="same name"):
        agent_of(ScriptedModel(), add, add)
    with pytest.raises(InvalidOption, match="must be a deepserve.Model"):
        Agent("clerk", model="qwen")  # type: ignore[call-overload]
    with pytest.raises(TypeError, match="message 0 must be a dict with a role"):
        agent_of(ScriptedModel()).run([{"content": "x"}])
