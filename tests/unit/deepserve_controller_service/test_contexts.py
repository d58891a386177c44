"""Contexts of models: kept by name, for their time to live, within a bound."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from deepserve.protocol.messages import OpenRequest, Outcome, Value
from deepserve.protocol.model_io import ChatInput, ContextInput
from deepserve_controller.core.events import Payload
from deepserve_controller.service.contexts import NUM_EXPIRED, ContextRefused, Contexts


class Clock:
    now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock() -> Clock:
    return Clock()


def payload_of(value: Any) -> Payload:
    data = msgspec.msgpack.encode(value)
    return Payload(Value("msgpack", len(data)), data)


def start(contexts: Contexts, context_id: str, ttl_s: float = 10.0, label: str = "models/a", text: str = "x") -> str:
    request_id = f"rq-{context_id}"
    value = ContextInput(context_id, [{"role": "user", "content": text}], ttl_s)
    message = OpenRequest(request_id, "fn", method="cache", context_id=context_id)
    contexts.opened(message, payload_of(value), label)
    contexts.check_invariants()
    return request_id


def make(contexts: Contexts, context_id: str, **options: Any) -> None:
    contexts.finished(start(contexts, context_id, **options), Outcome("ok"))
    contexts.check_invariants()


def chat(contexts: Contexts, context_id: str, label: str = "models/a") -> ChatInput:
    message = OpenRequest("rq-chat", "fn", method="chat", context_id=context_id)
    given = payload_of(ChatInput([{"role": "user", "content": "more"}]))
    payload = contexts.opened(message, given, label)
    contexts.check_invariants()
    assert payload.value.size_bytes == len(payload.data)
    return msgspec.msgpack.decode(payload.data, type=ChatInput)


def refusal(contexts: Contexts, *arguments: Any) -> Outcome:
    with pytest.raises(ContextRefused) as caught:
        chat(contexts, *arguments)
    assert caught.value.outcome.kind == "refused"
    return caught.value.outcome


def test_a_chat_gets_the_context_that_it_names(clock: Clock) -> None:
    contexts = Contexts(clock=clock)
    make(contexts, "ctx-1", text="first")
    make(contexts, "ctx-2", text="second")
    asked = chat(contexts, "ctx-2")
    assert asked.messages == [{"role": "user", "content": "more"}]
    assert asked.context is not None and asked.context.messages[0]["content"] == "second"


def test_it_is_there_once_the_engine_has_taken_it(clock: Clock) -> None:
    contexts = Contexts(clock=clock)
    coming, failing = start(contexts, "ctx-1"), start(contexts, "ctx-2")
    assert refusal(contexts, "ctx-1").code == "context"
    contexts.finished(coming, Outcome("ok"))
    contexts.finished(failing, Outcome("error"))
    assert chat(contexts, "ctx-1").context is not None
    assert refusal(contexts, "ctx-2").code == "context"
    contexts.finished("rq-of-somebody-else", Outcome("ok"))
    assert len(contexts) == 1


def test_it_lives_on_while_it_is_used(clock: Clock) -> None:
    contexts = Contexts(clock=clock)
    make(contexts, "ctx-1", ttl_s=10)
    for _ in range(3):
        clock.now_s += 9
        chat(contexts, "ctx-1")
    clock.now_s += 10
    outcome = refusal(contexts, "ctx-1")
    assert outcome.code == "context_expired" and "10 s" in outcome.detail
    assert len(contexts) == 0


def test_of_those_that_expired_the_latest_are_remembered(clock: Clock) -> None:
    contexts = Contexts(clock=clock)
    for number in range(NUM_EXPIRED + 1):
        make(contexts, f"ctx-{number}", ttl_s=1)
        clock.now_s += 1
    assert refusal(contexts, "ctx-0").code == "context"
    assert refusal(contexts, "ctx-1").code == "context_expired"


def test_it_belongs_to_its_model(clock: Clock) -> None:
    contexts = Contexts(clock=clock)
    make(contexts, "ctx-1", label="models/a")
    outcome = refusal(contexts, "ctx-1", "models/b")
    assert outcome.code == "context" and "models/a" in outcome.detail


def test_no_more_than_there_is_room_for(clock: Clock) -> None:
    contexts = Contexts(max_bytes=3150, clock=clock)
    make(contexts, "ctx-1", text="x" * 1000)
    coming = start(contexts, "ctx-2", text="x" * 1000)
    with pytest.raises(ContextRefused, match="no room"):
        start(contexts, "ctx-3", text="x" * 1000)
    contexts.finished(coming, Outcome("cancelled"))
    make(contexts, "ctx-3", text="x" * 1000)
    make(contexts, "ctx-3", text="y" * 900)  # the same name again takes the place of the first
    contexts.delete("ctx-1")
    assert refusal(contexts, "ctx-1").code == "context"
    assert len(contexts) == 1


@pytest.mark.parametrize(
    "value",
    [{"context_id": "other", "messages": [], "ttl_s": 1.0}, {"context_id": "ctx-1", "messages": []}, [1], {"a": 1}]
    + [{"context_id": "ctx-1", "messages": [], "ttl_s": ttl_s} for ttl_s in (0.0, -1.0, float("inf"), float("nan"))],
)
def test_what_is_no_context_is_refused(clock: Clock, value: Any) -> None:
    contexts = Contexts(clock=clock)
    message = OpenRequest("rq", "fn", method="cache", context_id="ctx-1")
    with pytest.raises(ContextRefused):
        contexts.opened(message, payload_of(value), "models/a")
    contexts.finished("rq", Outcome("ok"))
    assert len(contexts) == 0


def test_what_is_no_chat_is_refused(clock: Clock) -> None:
    contexts = Contexts(clock=clock)
    make(contexts, "ctx-1")
    message = OpenRequest("rq", "fn", method="chat", context_id="ctx-1")
    for payload in (payload_of([1]), Payload(Value("msgpack", 1), b"\xc1"), Payload(Value("pickle", 1), b"x")):
        with pytest.raises(ContextRefused):
            contexts.opened(message, payload, "models/a")
    with pytest.raises(ContextRefused, match="inline"):
        contexts.opened(message, Payload(Value("msgpack", 1, segment="v-1")), "models/a")
