"""What the gateway decides by itself: who may ask, how much, whose turn it is, and how answers end."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from starlette.requests import Request

from deepserve.protocol.credit import STREAM_ITEMS
from deepserve.protocol.messages import Value
from deepserve.protocol.openai_io import OpenAIUsage
from deepserve_controller.core.actions import SendTask
from deepserve_controller.core.events import Payload
from deepserve_controller.errors import QueryError
from deepserve_controller.service.openai import admission, body, gateway
from deepserve_controller.service.openai.api_keys import ApiKeys
from deepserve_controller.service.openai.fault import Fault
from deepserve_controller.service.openai.openapi import openapi_document
from deepserve_controller.service.recipients import Recipients
from deepserve_controller.service.sql_store import SqlStore
from tests.unit.deepserve_controller_service.openai_peers import Asked, Setup

CHAT = "/chat/completions"
ASKED = {"model": "tiny", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 10}


def run(test: Callable[[Setup], Awaitable[None]], **options: Any) -> None:
    async def main() -> None:
        setup = Setup(**options)
        await asyncio.wait_for(test(setup), 20)
        setup.check_nothing_left()

    asyncio.run(main())


def ask(setup: Setup, secret: str | None = None, path: str = CHAT, **changes: Any) -> Asked:
    asked = json.dumps({**ASKED, **changes}).encode()
    return Asked(setup.gateway.asgi, path, asked, setup.secret if secret is None else secret)


async def opened(setup: Setup, number: int = 1) -> list[str]:
    """The ids of requests at the pods, once there are so many."""
    while len(setup.pods.opened) < number:
        await asyncio.sleep(0)
    return list(setup.pods.opened)


async def until(is_so: Callable[[], bool]) -> None:
    while not is_so():
        await asyncio.sleep(0)


def answer_at_once(setup: Setup, usage: OpenAIUsage = OpenAIUsage(3, 2)) -> None:  # noqa: B008  (frozen)
    def answer(request_id: str) -> None:
        setup.pods.items(request_id, b'{"ok": 1}')
        setup.pods.end(request_id, usage)

    setup.pods.on_open = answer


def routed(request_id: str, pod_id: str, why: str) -> SendTask:
    payload = Payload(Value(), b"")
    return SendTask(pod_id, "t-1", 1, request_id, "job-1", "fn-tiny", "stream", "", 0, 0.0, 0, payload, route=why)


def test_a_whole_answer_and_a_stream() -> None:
    async def test(setup: Setup) -> None:
        whole = ask(setup)
        [first] = await opened(setup)
        assert json.loads(setup.pods.bodies[first]) == ASKED
        assert setup.pods.opened[first].method == "openai.chat"
        setup.pods.items(first, b'{"a": ', b"1}")
        setup.pods.end(first)
        await whole.done
        assert (whole.status, whole.body, whole.headers["content-type"]) == (200, b'{"a": 1}', "application/json")
        assert whole.headers["x-request-id"] == first and "x-deepserve-route" not in whole.headers
        stream = ask(setup, stream=True)
        second = (await opened(setup, 2))[1]
        setup.pods.routes.note(routed(second, "pod-1", "least loaded"))
        setup.pods.items(second, b"data: 1\n\n", b"data: 2\n\n")
        await until(lambda: len(stream.writes) == 1)  # what came together is written together
        setup.pods.items(second, b"data: [DONE]\n\n")
        setup.pods.end(second)
        await stream.done
        assert stream.body == b"data: 1\n\ndata: 2\n\ndata: [DONE]\n\n"
        assert stream.headers["x-request-id"] == second
        assert stream.headers["x-deepserve-route"] == "pod-1: least loaded"
        assert stream.headers["content-type"].startswith("text/event-stream") and not setup.pods.cancelled

    run(test)


def test_tokens_are_counted_by_the_tokenizer_alone() -> None:
    async def test(setup: Setup) -> None:
        answer_at_once(setup)
        asked = ask(setup, path="/tokenize")
        await asked.done
        [message] = setup.pods.opened.values()
        assert (message.function_id, message.method) == ("fn-tokenizer", "openai.tokenize")

    run(test)


@pytest.mark.parametrize("given", ["", "sk-unknown", "\udcff"])
def test_no_key_no_answer(given: str) -> None:
    async def test(setup: Setup) -> None:
        assert setup.keys.find(given) is None
        asked = ask(setup, secret=given if given.isascii() else "x")
        await asked.done
        found = (asked.status, asked.error["code"], asked.error["type"])
        assert found == (401, "invalid_api_key", "authentication_error") and not setup.pods.opened

    run(test)


def test_scopes_and_models_of_a_key() -> None:
    async def test(setup: Setup) -> None:
        narrow = setup.keys.new("narrow", scopes=["completions", "models"], models=["other"])[1]
        chat, other = ask(setup, narrow), ask(setup, narrow, "/completions", prompt="x")
        await chat.done
        await other.done
        assert (chat.status, chat.error["code"]) == (403, "insufficient_permissions")
        assert (other.status, other.error["code"], other.error["param"]) == (404, "model_not_found", "model")
        listed = Asked(setup.gateway.asgi, "/models", None, narrow)
        await listed.done
        assert json.loads(listed.body) == {"object": "list", "data": []}
        one = Asked(setup.gateway.asgi, "/models/tiny", None, setup.secret)
        await one.done
        assert json.loads(one.body)["id"] == "tiny"

    run(test)


def test_a_key_for_chat_alone_lists_the_models_that_it_may_use() -> None:
    async def test(setup: Setup) -> None:
        for models, there in ((["tiny"], ["tiny"]), (["other"], [])):
            secret = setup.keys.new("chat", scopes=["chat"], models=models)[1]
            listed, one = (Asked(setup.gateway.asgi, path, None, secret) for path in ("/models", "/models/tiny"))
            await listed.done
            await one.done
            assert [card["id"] for card in json.loads(listed.body)["data"]] == there
            assert one.status == (200 if there else 404)

    run(test)


@pytest.mark.parametrize(
    ("written", "param"),
    [
        (b"", None),
        (b"{", None),
        (b"[]", None),
        (b"\xff", None),
        (b'{"model": 3}', "model"),
        (b'{"model": "tiny", "stream": "yes"}', "stream"),
        (b'{"model": "tiny", "n": []}', "n"),
        (b'{"messages": []}', "model"),
        (b'{"x": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", None),
    ],
)
def test_a_body_that_cannot_be_read_names_the_field(written: bytes, param: str | None) -> None:
    async def test(setup: Setup) -> None:
        asked = Asked(setup.gateway.asgi, CHAT, written, setup.secret)
        await asked.done
        assert asked.status == 400 and asked.error["param"] == param and not setup.pods.opened

    run(test)


@pytest.mark.parametrize("path", ["/chat/completions", "/completions", "/responses", "/embeddings", "/tokenize"])
@pytest.mark.parametrize("broken", [b"@", b"", b'"', b"[1,", b'{"a"}', b"nul", b"01", b'"\xff"'])
def test_malformed_json_at_every_field(path: str, broken: bytes) -> None:
    """Also in fields that the gateway does not look at: no pod hears of it."""
    operation = openapi_document()["paths"][path]["post"]
    fields = operation["requestBody"]["content"]["application/json"]["schema"]["properties"]

    async def test(setup: Setup) -> None:
        for field in fields:
            written = b'{"model": "tiny", "' + field.encode() + b'": ' + broken + b', "user": "x"}'
            asked = Asked(setup.gateway.asgi, path, written, setup.secret)
            await asked.done
            assert (asked.status, asked.error["type"]) == (400, "invalid_request_error"), field
        assert not setup.pods.opened and len(fields) > 1

    run(test)


def test_a_body_that_is_too_large(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(body, "MAX_BODY_BYTES", 1000)

    async def test(setup: Setup) -> None:
        asked = ask(setup, padding="x" * 1000)
        await asked.done
        assert (asked.status, asked.error["code"]) == (413, "request_too_large")

    run(test)


@pytest.mark.parametrize(("headers", "num_read"), [([(b"content-length", b"1073741824")], 0), ([], 33)])
def test_a_body_of_a_gigabyte_is_not_kept(headers: list[tuple[bytes, bytes]], num_read: int) -> None:
    """Announced, none of it is read; in chunks, what is one byte more than the limit at most."""
    taken = 0

    async def receive() -> dict[str, Any]:
        nonlocal taken
        taken += 1
        return {"type": "http.request", "body": bytes(1 << 20), "more_body": taken < 1024}

    request = Request({"type": "http", "method": "POST", "headers": headers}, receive)
    with pytest.raises(Fault) as caught:
        asyncio.run(body.read_body(request))
    assert (caught.value.status, taken) == (413, num_read)


def test_paths_and_methods_that_are_not_there() -> None:
    async def test(setup: Setup) -> None:
        nowhere = Asked(setup.gateway.asgi, "/nowhere", None, setup.secret)
        wrong = Asked(setup.gateway.asgi, CHAT, None, setup.secret)
        document = Asked(setup.gateway.asgi, "/openapi.json", None, "")
        for asked in (nowhere, wrong, document):
            await asked.done
        assert (nowhere.status, wrong.status, document.status) == (404, 405, 200)
        assert "nowhere" in nowhere.error["message"] and wrong.error["type"] == "invalid_request_error"

    run(test)


def test_a_page_in_a_browser_may_ask_with_a_key() -> None:
    """It asks what it may ask first, without the key."""

    async def test(setup: Setup) -> None:
        answer_at_once(setup)
        origin = {"origin": "http://localhost:3000"}
        asks = {"access-control-request-method": "POST", "access-control-request-headers": "authorization,content-type"}
        preflight = Asked(setup.gateway.asgi, CHAT, None, "", "OPTIONS", {**origin, **asks})
        await preflight.done
        assert preflight.status == 200 and preflight.headers["access-control-allow-origin"] == "*"
        assert preflight.headers["access-control-allow-headers"] == asks["access-control-request-headers"]
        assert "POST" in preflight.headers["access-control-allow-methods"]
        for secret, status in ((setup.secret, 200), ("", 401)):
            asked = Asked(setup.gateway.asgi, CHAT, json.dumps(ASKED).encode(), secret, headers=origin)
            await asked.done
            assert asked.status == status and asked.headers["access-control-allow-origin"] == "*"
            assert "retry-after" in asked.headers["access-control-expose-headers"]
            assert "access-control-allow-credentials" not in asked.headers
        plain = Asked(setup.gateway.asgi, CHAT, None, setup.secret, "OPTIONS")
        await plain.done
        assert plain.status == 405 and "access-control-allow-origin" not in plain.headers

    run(test)


def test_the_pods_errors_are_passed_on_as_they_are() -> None:
    async def test(setup: Setup) -> None:
        setup.pods.on_open = lambda request_id: setup.pods.refuse(request_id, 422, b'{"error": {"message": "no"}}')
        asked = ask(setup, stream=True)
        await asked.done
        assert (asked.status, asked.error) == (422, {"message": "no"})

    run(test)


def test_a_pod_that_dies_is_a_status_before_the_first_byte_and_an_event_after_it() -> None:
    async def test(setup: Setup) -> None:
        early, late = ask(setup, stream=True), ask(setup, stream=True)
        first, second = await opened(setup, 2)
        setup.pods.lose(first)
        setup.pods.items(second, b"data: 1\n\n")
        await until(lambda: bool(late.writes))
        setup.pods.lose(second)
        await early.done
        await late.done
        assert (early.status, early.error["code"]) == (500, "pod_lost")
        event, done, _ = late.body.removeprefix(b"data: 1\n\n").split(b"\n\n")
        assert json.loads(event.removeprefix(b"data: "))["error"]["code"] == "pod_lost" and done == b"data: [DONE]"

    run(test)


def test_a_fault_in_a_stream_of_responses_is_an_event_with_a_type_and_a_number() -> None:
    async def test(setup: Setup) -> None:
        stream = ask(setup, path="/responses", stream=True)
        [request] = await opened(setup)
        setup.pods.items(request, b"event: a\ndata: {}\n\nevent: b\ndata: {}\n\n", b"event: c\ndata: {}\n\n")
        await until(lambda: bool(stream.writes))
        setup.pods.lose(request)
        await stream.done
        *_, last, end = stream.body.split(b"\n\n")
        kind, data = last.split(b"\n")
        told = json.loads(data.removeprefix(b"data: "))
        assert (kind, end, told["type"], told["sequence_number"]) == (b"event: error", b"", "error", 3)
        assert told["code"] == told["error"]["code"] == "pod_lost" and told["message"] and told["param"] is None

    run(test)


def test_requests_per_minute() -> None:
    async def test(setup: Setup) -> None:
        answer_at_once(setup)
        secret = setup.keys.new("slow", requests_per_minute=2)[1]
        asked = [ask(setup, secret) for _ in range(3)]
        for each in asked:
            await each.done
        assert [each.status for each in asked] == [200, 200, 429]
        last = asked[2]
        assert last.error["code"] == "rate_limit_exceeded" and last.error["type"] == "rate_limit_error"
        assert 1 <= int(last.headers["retry-after"]) <= 30 and last.headers["x-ratelimit-limit-requests"] == "2"
        assert [each.headers["x-ratelimit-remaining-requests"] for each in asked] == ["1", "0", "0"]
        assert 0 < float(asked[0].headers["x-ratelimit-reset-requests"].removesuffix("s")) <= 30

    run(test)


def test_tokens_per_minute_are_charged_as_they_were_used() -> None:
    async def test(setup: Setup) -> None:
        answer_at_once(setup, OpenAIUsage(3, 2))
        secret = setup.keys.new("slow", tokens_per_minute=1000)[1]
        for _ in range(20):  # by their estimate four would have been too many
            asked = ask(setup, secret, max_tokens=300)
            await asked.done
            assert asked.status == 200 and 0 < int(asked.headers["x-ratelimit-remaining-tokens"]) < 700
        answer_at_once(setup, OpenAIUsage(500, 500))
        statuses = []
        for _ in range(3):
            asked = ask(setup, secret, max_tokens=300)
            await asked.done
            statuses.append(asked.status)
        assert statuses[0] == 200 and statuses[-1] == 429

    run(test)


def test_a_revoked_key_ends_what_it_runs_and_what_waits() -> None:
    async def test(setup: Setup) -> None:
        key, secret = setup.keys.new("leaving")
        stream, whole = ask(setup, secret, stream=True), ask(setup, secret)
        other = ask(setup, stream=True)
        first, second, third = await opened(setup, 3)
        setup.pods.items(first, b"data: 1\n\n")
        setup.pods.items(third, b"data: 1\n\n")
        await until(lambda: bool(stream.writes) and bool(other.writes))
        setup.keys.revoke(key.key_id)
        await stream.done
        await whole.done
        assert whole.status == 401 and b"revoked" in stream.body and stream.body.endswith(b"data: [DONE]\n\n")
        assert set(setup.pods.cancelled) == {first, second}
        setup.pods.end(third)
        await other.done
        assert b"revoked" not in other.body
        again = ask(setup, secret)
        await again.done
        assert again.status == 401

    run(test)


def test_a_controller_that_ends_tells_who_runs_who_waits_and_who_comes() -> None:
    async def test(setup: Setup) -> None:
        stream = ask(setup, stream=True)
        [first] = await opened(setup)
        setup.pods.items(first, b"data: 1\n\n")
        await until(lambda: bool(stream.writes))
        others = [ask(setup) for _ in range(6)]
        await until(lambda: bool(setup.gateway._admissions["fn-tiny"]._queue))
        num_opened = len(setup.pods.opened)
        assert num_opened < 7
        setup.exchanges.end_all()
        late = ask(setup)
        for asked in (stream, *others, late):
            await asked.done
        assert stream.body.startswith(b"data: 1") and b'"code":"shutting_down"' in stream.body
        for asked in (*others, late):
            assert asked.status == 503 and asked.headers["retry-after"] == "1", asked.body
            assert asked.error["code"] == "shutting_down" and asked.error["type"] == "overloaded_error"
        assert len(setup.pods.opened) == num_opened

    run(test, ready_slots=1)


def test_an_answer_that_is_whole_when_the_controller_ends_is_given() -> None:
    async def test(setup: Setup) -> None:
        asked = ask(setup)
        [request_id] = await opened(setup)
        setup.pods.items(request_id, b"{}")
        setup.pods.end(request_id)
        setup.exchanges.end_all()
        await asked.done
        assert (asked.status, asked.body) == (200, b"{}")

    run(test)


def test_a_key_of_a_process_ends_with_its_link() -> None:
    async def test(setup: Setup) -> None:
        answer_at_once(setup)
        setup.recipients.add("link-1", setup.exchanges)
        secret = setup.keys.new_for("link-1")
        assert not setup.keys.queries["keys"]("link-1", {})["keys"][1:]  # the process's own is not listed
        good = ask(setup, secret)
        await good.done
        setup.recipients.remove("link-1")
        bad = ask(setup, secret)
        await bad.done
        assert (good.status, bad.status) == (200, 401)

    run(test)


def test_a_client_that_leaves_cancels_its_request_alone() -> None:
    async def test(setup: Setup) -> None:
        leaving, early, staying = ask(setup, stream=True), ask(setup), ask(setup, stream=True)
        first, second, third = await opened(setup, 3)
        for request_id in (first, third):
            setup.pods.items(request_id, b"data: 1\n\n")
        await until(lambda: bool(leaving.writes))
        leaving.leaves.set()
        early.leaves.set()
        await leaving.done
        await early.done
        assert set(setup.pods.cancelled) == {first, second} and early.status == 499
        setup.pods.items(third, b"data: 2\n\n")
        setup.pods.end(third)
        await staying.done
        assert staying.body == b"data: 1\n\ndata: 2\n\n"

    run(test)


@pytest.mark.parametrize(
    ("name", "wrong", "allowed"),
    [
        ("temperature", -0.1, 0), ("temperature", "hot", 2.0), ("top_p", 0.0, 0.1), ("top_p", 1.1, 1),
        ("top_k", -2, -1), ("min_p", 1.1, 0.0), ("n", 0, 1), ("n", 129, 128), ("min_tokens", -1, 0),
        ("presence_penalty", 2.1, -2.0),
        ("frequency_penalty", -2.1, 2.0), ("repetition_penalty", 0, 0.01), ("repetition_penalty", 101, None),
    ],
)  # fmt: skip
def test_options_that_no_model_takes_are_refused_before_a_pod_is_asked(name: str, wrong: Any, allowed: Any) -> None:
    async def test(setup: Setup) -> None:
        for path in (CHAT, "/completions"):
            asked = ask(setup, path=path, **{name: wrong})
            await asked.done
            assert (asked.status, asked.error["type"], asked.error["param"]) == (400, "invalid_request_error", name)
        assert not setup.pods.opened
        setup.pods.on_open = setup.pods.end
        for path, value in ((CHAT, allowed), ("/embeddings", wrong)):  # to which it means nothing
            asked = ask(setup, path=path, **{name: value})
            await asked.done
            assert asked.status == 200
        assert len(setup.pods.opened) == 2

    run(test)


def test_a_client_that_reads_nothing_holds_back_its_pod_and_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gateway, "PATIENCE_S", 0.2)

    async def test(setup: Setup) -> None:
        asked = ask(setup, stream=True)
        [request_id] = await opened(setup)
        half = STREAM_ITEMS // 2
        setup.pods.items(request_id, *[b"1"] * (half - 1))
        await until(lambda: bool(asked.writes))
        assert setup.pods.granted == []  # it is told by halves
        setup.pods.items(request_id, b"2")
        await until(lambda: len(asked.writes) > 1)
        assert setup.pods.granted == [half]
        asked.reads.clear()
        setup.pods.items(request_id, *[b"3"] * half)
        setup.pods.items(request_id, b"4")
        for _ in range(50):
            await asyncio.sleep(0)
        assert setup.pods.granted == [half]  # no room for more
        await asked.done
        assert asked.was_reset and setup.pods.cancelled == [request_id]

    run(test)


def test_a_slow_reader_gets_what_came_meanwhile_in_one_piece() -> None:
    async def test(setup: Setup) -> None:
        asked = ask(setup, stream=True)
        [request_id] = await opened(setup)
        asked.reads.clear()
        setup.pods.items(request_id, b"1")
        await until(lambda: asked.num_offered == 1)
        for piece in (b"2", b"3", b"4"):
            setup.pods.items(request_id, piece)
        asked.reads.set()
        setup.pods.end(request_id)
        await asked.done
        assert asked.writes == [b"1", b"234", b""]

    run(test)


def test_keys_take_turns_when_the_pods_are_full() -> None:
    async def test(setup: Setup) -> None:
        modest_key = setup.keys.new("modest")[1]
        running = ask(setup)
        await opened(setup)
        flood = [ask(setup, max_tokens=200) for _ in range(30)]
        await until(lambda: setup.num_waiting == 30)
        at_once, modest = (ask(setup, modest_key, max_tokens=limit) for limit in (202, 201))
        await opened(setup, 2)
        await until(lambda: setup.num_waiting == 31)
        assert len(setup.pods.opened) == 2, "more than the modest one's share"
        answer_at_once(setup, OpenAIUsage(25, 200))
        for each in list(setup.pods.opened):
            setup.pods.items(each, b"{}")
            setup.pods.end(each)
        for asked in (running, at_once, modest, *flood):
            await asked.done
            assert asked.status == 200
        order = [json.loads(written)["max_tokens"] for written in setup.pods.bodies.values()]
        assert order.index(201) <= 2 + admission.QUANTUM_TOKENS // 200 + 1

    run(test, ready_slots=1)


def test_a_key_below_its_share_does_not_wait_and_comes_first_in_the_engine() -> None:
    async def test(setup: Setup) -> None:
        modest_key = setup.keys.new("modest")[1]
        flood = [ask(setup, max_tokens=200) for _ in range(6)]
        await opened(setup, 2)
        modest = ask(setup, modest_key, max_tokens=201)
        ids = await opened(setup, 3)
        turns = {json.loads(setup.pods.bodies[each])["max_tokens"]: setup.pods.turns[each] for each in ids}
        assert turns[201] < turns[200] == 0
        assert [setup.pods.opened[each].is_ahead for each in ids] == [False, False, True]
        answer_at_once(setup, OpenAIUsage(25, 200))
        for each in ids:
            setup.pods.items(each, b"{}")
            setup.pods.end(each)
        for asked in (modest, *flood):
            await asked.done
            assert asked.status == 200

    run(test, ready_slots=2)


def test_queues_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(admission, "MAX_WAITING_PER_KEY", 2)
    monkeypatch.setattr(admission, "MAX_WAITING", 3)

    async def test(setup: Setup) -> None:
        other, third = (setup.keys.new(name)[1] for name in ("other", "third"))
        running = [ask(setup) for _ in range(1)]
        await opened(setup, 1)
        waiting = [ask(setup) for _ in range(2)]
        await until(lambda: setup.num_waiting == 2)
        too_many = ask(setup)
        at_once = ask(setup, other)
        await opened(setup, 2)
        more = ask(setup, other)
        await too_many.done
        await until(lambda: setup.num_waiting == 3)
        full = ask(setup, third)
        await full.done
        assert (too_many.status, full.status, full.error["code"]) == (429, 503, "queue_full")
        assert too_many.headers["retry-after"] == full.headers["retry-after"] == "1"
        assert full.error["type"] == "overloaded_error"
        for each in (*running, *waiting, at_once, more):
            each.leaves.set()
            await each.done

    run(test, ready_slots=1)


def test_new_keys_are_checked() -> None:
    setup = Setup()
    new = setup.keys.queries["new_key"]
    for wrong in (
        {},
        {"name": ""},
        {"name": "x", "scopes": ["nothing"]},
        {"name": "x", "models": [3]},
        {"name": "x", "tokens_per_minute": -1},
        {"name": "x", "requests_per_minute": "many"},
    ):
        with pytest.raises(QueryError):
            new("link", wrong)
    made = new("link", {"name": "ada", "scopes": ["chat"], "tokens_per_minute": 5})
    assert made["key"].startswith("sk-") and "digest" not in made
    listed = setup.keys.queries["keys"]("link", {})["keys"]
    assert made["key_id"] in [key["key_id"] for key in listed] and all("key" not in key for key in listed)
    with pytest.raises(QueryError):
        setup.keys.revoke("key-unknown")


def test_a_key_is_revoked_by_its_name_where_no_other_has_it() -> None:
    setup = Setup()
    new, revoke = setup.keys.queries["new_key"], setup.keys.queries["revoke_key"]
    made = [new("link", {"name": name}) for name in ("ada", "ada", "bob")]
    with pytest.raises(QueryError) as refused:
        revoke("link", {"key_id": "ada"})
    assert refused.value.code == "invalid" and all(key["key_id"] in str(refused.value) for key in made[:2])
    assert all(setup.keys.find(key["key"]) for key in made), "none was revoked"
    assert revoke("link", {"key_id": "bob"})["key_id"] == made[2]["key_id"]
    assert revoke("link", {"key_id": made[0]["key_id"]})["name"] == "ada"
    assert revoke("link", {"key_id": "ada"})["key_id"] == made[1]["key_id"], "the name is one key's again"
    assert not any(setup.keys.find(key["key"]) for key in made)
    for gone in ("ada", "of link-1", "root"):
        with pytest.raises(QueryError):
            revoke("link", {"key_id": gone})


def test_keys_outlive_their_controller(tmp_path: Path) -> None:
    store = SqlStore(str(tmp_path))
    kept, secret = ApiKeys(store.keys, Recipients()).new("a", scopes=("chat",))
    again = ApiKeys(store.keys, Recipients())
    assert again.find(secret) == kept
    again.revoke(kept.key_id)
    assert ApiKeys(store.keys, Recipients()).find(secret) is None
    store.close()
