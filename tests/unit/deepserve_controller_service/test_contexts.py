"""Contexts of models: kept by name, for their time to live, within a bound."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from sqlalchemy import Engine, event

from deepserve.protocol.messages import OpenRequest, Outcome, Value
from deepserve.protocol.model_io import ChatInput, ContextInput, Generated
from deepserve_controller.core.events import Payload
from deepserve_controller.errors import QueryError, StoreUnreadable, StoreUnwritable
from deepserve_controller.service.context_queries import context_queries
from deepserve_controller.service.contexts import NUM_EXPIRED, ContextRefused, Contexts
from deepserve_controller.service.sql_store import SqlStore


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


def start(
    contexts: Contexts,
    context_id: str,
    ttl_s: float = 10.0,
    label: str = "models/a",
    text: str = "x",
    continues: str = "",
) -> str:
    request_id = f"rq-{context_id}"
    value = ContextInput(context_id, [{"role": "user", "content": text}], ttl_s, continues=continues)
    message = OpenRequest(request_id, "fn", method="cache", context_id=context_id)
    contexts.opened(message, payload_of(value), label)
    contexts.check_invariants()
    return request_id


def make(contexts: Contexts, context_id: str, **options: Any) -> None:
    answer = msgspec.msgpack.encode(Generated("", "stop", 7, 1))
    contexts.finished(start(contexts, context_id, **options), Outcome("ok"), answer)
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


def test_what_there_is_is_told(clock: Clock) -> None:
    contexts = Contexts(clock=clock)
    make(contexts, "ctx-1", ttl_s=10)
    make(contexts, "ctx-2", ttl_s=20, label="models/b")
    clock.now_s += 4
    chat(contexts, "ctx-1")
    told = [(info.context_id, info.label, info.num_tokens, info.ttl_s, info.expires_in_s) for info in contexts.infos()]
    assert told == [("ctx-2", "models/b", 7, 20, 16), ("ctx-1", "models/a", 7, 10, 10)]
    assert [info.context_id for info in contexts.infos({"models/a"})] == ["ctx-1"]
    assert contexts.info("ctx-2").created_at > 0
    clock.now_s += 15
    assert [info.context_id for info in contexts.infos()] == ["ctx-2"]


def test_it_is_given_more_time(clock: Clock) -> None:
    contexts = Contexts(clock=clock)
    make(contexts, "ctx-1", ttl_s=10)
    assert contexts.extend("ctx-1", 100).expires_in_s == 100
    contexts.check_invariants()
    clock.now_s += 90
    asked = chat(contexts, "ctx-1")
    assert asked.context is not None and asked.context.ttl_s == 100  # what engines are told
    clock.now_s += 99
    assert contexts.info("ctx-1").expires_in_s == 1
    clock.now_s += 1
    for ask in (lambda: contexts.extend("ctx-1", 5), lambda: contexts.delete("ctx-1")):
        with pytest.raises(ContextRefused, match="'ctx-1' has expired"):
            ask()
    make(contexts, "ctx-2")
    for ttl_s in (0.0, -1.0, float("inf"), float("nan")):
        with pytest.raises(ContextRefused, match="ctx-2.*above 0"):
            contexts.extend("ctx-2", ttl_s)


def test_only_those_of_its_models_are_a_keys(clock: Clock) -> None:
    contexts = Contexts(clock=clock)
    make(contexts, "ctx-1")
    others = {"models/b"}
    for ask in (contexts.info, contexts.delete, lambda name, labels: contexts.extend(name, 5, labels)):
        with pytest.raises(ContextRefused, match="may use") as caught:
            ask("ctx-1", others)
        assert caught.value.outcome.code == "context"
    contexts.delete("ctx-1", {"models/a"})


def test_engines_are_told_of_another_time_to_live(clock: Clock) -> None:
    """At once, and again behind a request that was on its way to one when it changed."""
    contexts, told = Contexts(clock=clock), []
    contexts.on_ttl = lambda *what: told.append(what)
    make(contexts, "ctx-1", ttl_s=10)
    make(contexts, "ctx-2", ttl_s=10, label="models/b")
    chat(contexts, "ctx-1")
    contexts.finished("rq-chat", Outcome("ok"))
    assert told == []
    chat(contexts, "ctx-1")
    contexts.extend("ctx-1", 5)
    assert told == [("models/a", "ctx-1", 5)]
    contexts.finished("rq-chat", Outcome("ok"))
    assert told.pop() == told.pop() == ("models/a", "ctx-1", 5)
    chat(contexts, "ctx-2", "models/b")
    contexts.delete("ctx-2")
    contexts.finished("rq-chat", Outcome("cancelled"))
    assert told.pop() == told.pop() == ("models/b", "ctx-2", 0)
    failing = start(contexts, "ctx-3")
    contexts.finished(failing, Outcome("cancelled"))
    assert told.pop() == ("models/a", "ctx-3", 0)
    clock.now_s += 20
    assert contexts.infos() == [] and told == []  # engines know by themselves
    contexts.finished("rq-of-somebody-else", Outcome("ok"))
    assert told == []


def test_those_of_a_key_end_with_it(clock: Clock) -> None:
    contexts, told = Contexts(clock=clock), []
    contexts.on_ttl = lambda *what: told.append(what)
    for name in ("ctx-key-1-a", "ctx-key-1-b", "ctx-key-12-a", "ctx-c"):
        make(contexts, name)
    coming, others = start(contexts, "ctx-key-1-c"), start(contexts, "ctx-key-12-c")
    contexts.delete_of_key("key-1")
    assert [info.context_id for info in contexts.infos()] == ["ctx-key-12-a", "ctx-c"]
    assert told == [("models/a", "ctx-key-1-a", 0), ("models/a", "ctx-key-1-b", 0)]
    for request_id in (coming, others):  # answered before they could be cancelled
        contexts.finished(request_id, Outcome("ok"))
    assert told[2:] == [("models/a", "ctx-key-1-c", 0)]
    assert [info.context_id for info in contexts.infos()] == ["ctx-key-12-a", "ctx-c", "ctx-key-12-c"]


def test_one_continues_another(clock: Clock) -> None:
    contexts = Contexts(clock=clock)
    make(contexts, "ctx-1", text="first")
    make(contexts, "ctx-2", text="second", continues="ctx-1")
    contexts.delete("ctx-1")
    asked = chat(contexts, "ctx-2")
    assert asked.context is not None and not asked.context.continues
    assert [message["content"] for message in asked.context.messages] == ["first", "second"]
    with pytest.raises(ContextRefused, match="there is no context 'ctx-1'"):
        start(contexts, "ctx-3", continues="ctx-1")
    value = ContextInput("ctx-4", [], 10.0, [{"type": "function"}], "ctx-2")
    with pytest.raises(ContextRefused, match="has those of what continues it"):
        contexts.opened(OpenRequest("rq", "fn", method="cache", context_id="ctx-4"), payload_of(value), "models/a")


def test_a_restarted_controller_has_them_again(clock: Clock, tmp_path: Path) -> None:
    """For another time to live; those that were deleted or had expired are gone."""
    store = SqlStore(str(tmp_path))
    contexts = Contexts(clock=clock, records=store.contexts)
    for number in range(3):
        make(contexts, f"ctx-{number}", ttl_s=10, text=f"text {number}")
    contexts.extend("ctx-0", 50)
    contexts.delete("ctx-1")
    clock.now_s += 20
    assert [info.context_id for info in contexts.infos()] == ["ctx-0"]
    store.close()
    store = SqlStore(str(tmp_path))
    later = Clock()
    again = Contexts(clock=later, records=store.contexts)
    again.check_invariants()
    [info] = again.infos()
    assert (info.context_id, info.num_tokens, info.ttl_s, info.expires_in_s) == ("ctx-0", 7, 50, 50)
    asked = chat(again, "ctx-0")
    assert asked.context is not None and asked.context.messages[0]["content"] == "text 0"
    assert refusal(again, "ctx-1").code == "context"
    store.contexts.put("ctx-9", b"\xc1")
    with pytest.raises(StoreUnreadable, match="ctx-9"):
        Contexts(records=store.contexts)
    store.close()


@pytest.fixture
def commits() -> Iterator[list[object]]:
    """One item for each transaction that a store has committed."""
    found: list[object] = []
    note = found.append
    event.listen(Engine, "commit", note)
    yield found
    event.remove(Engine, "commit", note)


def test_those_that_are_over_together_leave_the_store_in_one_transaction(
    clock: Clock, tmp_path: Path, commits: list[object]
) -> None:
    store = SqlStore(str(tmp_path))
    contexts = Contexts(clock=clock, records=store.contexts)
    for number in range(3):
        make(contexts, f"ctx-{number}", ttl_s=10)
        make(contexts, f"ctx-key-1-{number}", ttl_s=50)
    commits.clear()
    contexts.infos()
    assert len(commits) == 0
    clock.now_s += 10
    assert len(contexts.infos()) == 3 and len(commits) == 1
    assert [name for name, _ in store.contexts.all()] == [f"ctx-key-1-{number}" for number in range(3)]
    contexts.delete_of_key("key-1")
    assert len(commits) == 2 and store.contexts.all() == []
    contexts.check_invariants()
    store.close()


def test_a_store_that_takes_no_change_is_told_and_nothing_is_half_done(clock: Clock, tmp_path: Path) -> None:
    store = SqlStore(str(tmp_path))
    contexts, told = Contexts(clock=clock, records=store.contexts), []
    contexts.on_ttl = lambda *what: told.append(what)
    make(contexts, "ctx-1", text="first")
    make(contexts, "ctx-key-1-a")
    with sqlite3.connect(tmp_path / "state.db") as connection:
        connection.execute("alter table contexts rename to gone")
    for name in ("ctx-1", "ctx-2"):
        outcome = contexts.finished(start(contexts, name, text="second"), Outcome("ok"))
        assert (outcome.kind, name in outcome.detail, "takes no change" in outcome.detail) == ("refused", True, True)
    assert told == [("models/a", "ctx-2", 0)], "an engine has it; the one before it is there still"
    asked = chat(contexts, "ctx-1")
    assert asked.context is not None and asked.context.messages[0]["content"] == "first"
    with pytest.raises(StoreUnwritable):
        contexts.extend("ctx-1", 50)
    with pytest.raises(StoreUnwritable):
        contexts.delete("ctx-1")
    assert contexts.info("ctx-1").ttl_s == 10 and len(told) == 1
    contexts.delete_of_key("key-1")
    assert told.pop() == ("models/a", "ctx-key-1-a", 0), "whoever has the key no more has no context either"
    clock.now_s += 20
    assert contexts.infos() == []
    contexts.check_invariants()
    store.close()


def test_processes_of_the_sdk_ask_by_queries(clock: Clock) -> None:
    contexts = Contexts(clock=clock)
    make(contexts, "ctx-1")
    queries = context_queries(contexts)
    assert queries["extend_context"]("link", {"context_id": "ctx-1", "ttl_s": 30})["expires_in_s"] == 30
    [told] = queries["contexts"]("link", {"label": "models/a"})["contexts"]
    assert told["context_id"] == "ctx-1" and queries["contexts"]("link", {"label": "models/b"})["contexts"] == []
    assert queries["delete_context"]("link", {"context_id": "ctx-1"}) == {}
    wrong: list[tuple[str, dict[str, Any], str]] = [
        ("delete_context", {"context_id": "ctx-1"}, "context"),
        ("delete_context", {}, "invalid"),
        ("extend_context", {"context_id": "ctx-1", "ttl_s": "long"}, "invalid"),
    ]
    for name, body, code in wrong:
        with pytest.raises(QueryError) as caught:
            queries[name]("link", body)
        assert caught.value.code == code
