"""Streams whose pod is to go while they run: they go on in another pod, and their readers notice nothing."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest

import deepserve
from deepserve._autoscaler import ask_of_function
from deepserve._current_client import current_client
from deepserve._definition import Definition
from deepserve.protocol.specs import function_id
from tests.tiny_models import make_model
from tests.waiting import wait_for, wait_until_they_rest

LONG: Any = {"max_tokens": 1500, "temperature": 0}


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> deepserve.Model:
    folder: Path = make_model(tmp_path_factory.mktemp("models") / "wide", "qwen3", max_position_embeddings=2048)
    return deepserve.Model("wide", source=folder, max_pods=2)


def scale(llm: deepserve.Model, **bounds: int) -> None:
    ask_of_function(Definition(function_id(llm.spec), llm.spec, None, llm.spec.label), "scale", **bounds)


def ready(llm: deepserve.Model) -> int:
    found = ask_of_function(Definition(function_id(llm.spec), llm.spec, None, llm.spec.label), "function")
    return int(found["ready"])


def num_pods(llm: deepserve.Model) -> int:
    """Those that drain too."""
    return sum(pod["label"] == llm.spec.label for pod in current_client().query("status", {})["pods"])


def test_streams_and_calls_go_on_when_their_pod_is_to_go(wide: deepserve.Model) -> None:
    prompts = [f"hi {number}" for number in range(4)]
    expected = [wide.generate(prompt, **LONG) for prompt in prompts[:2]]
    expected += ["".join(wide.stream(prompt, **LONG)) for prompt in prompts[2:]]
    scale(wide, min_pods=2, max_pods=2)
    wait_for(lambda: ready(wide) == 2)
    got: dict[int, str] = {}
    begun, is_ordered = threading.Barrier(3), threading.Event()

    def read(number: int) -> None:
        text = ""
        for at, piece in enumerate(wide.stream(prompts[number], **LONG)):
            text += piece
            if at == 0:
                begun.wait(60)
                is_ordered.wait(60)  # a stream that nobody reads on in is not over by then
        got[number] = text

    threads = [threading.Thread(target=lambda n=n: got.update({n: wide.generate(prompts[n], **LONG)})) for n in (0, 1)]
    threads += [threading.Thread(target=read, args=(number,)) for number in (2, 3)]
    for thread in threads:
        thread.start()
    begun.wait(60)
    scale(wide, min_pods=1, max_pods=1)
    is_ordered.set()
    for thread in threads:
        thread.join(120)
    assert [got[number] for number in range(4)] == expected
    wait_for(lambda: num_pods(wide) == 1)
    requests = current_client().query("requests", {"limit": 4, "label": wide.spec.label})["requests"]
    moved = [request for request in requests if request["attempts"] == 2]
    assert moved and all(request["pod_losses"] == 0 for request in requests), requests


def test_a_reader_that_stands_still_keeps_no_pod_and_loses_nothing(wide: deepserve.Model) -> None:
    """What its pod has made and it has no room for is made again elsewhere."""
    expected = "".join(wide.stream("hello", **LONG))
    scale(wide, min_pods=2, max_pods=2)
    wait_for(lambda: ready(wide) == 2)
    streams = [wide.stream("hello", **LONG) for _ in range(2)]
    texts = [next(stream) for stream in streams]
    wait_until_they_rest(pids(wide))
    assert wide.generate("beside them", max_tokens=3, temperature=0)
    scale(wide, min_pods=1, max_pods=1)
    wait_for(lambda: num_pods(wide) == 1)
    assert [first + "".join(stream) for first, stream in zip(texts, streams, strict=True)] == [expected] * 2


def pids(llm: deepserve.Model) -> set[int]:
    return {pod["pid"] for pod in current_client().query("status", {})["pods"] if pod["label"] == llm.spec.label}


@pytest.mark.parametrize(("when", "losses"), [("prepare", 0), ("release", 1)])
def test_a_pod_dies_in_the_middle_of_a_move(wide: deepserve.Model, when: str, losses: int) -> None:
    """The one that it goes to, and the one that it comes from; nobody reads on until that has happened."""
    expected = "".join(wide.stream("hey", **LONG))
    scale(wide, min_pods=2, max_pods=2)
    wait_for(lambda: ready(wide) == 2)
    client, before = current_client(), pids(wide)
    fault_id = client.query("order_fault", {"step": 1, "when": when})["fault_id"]
    stream = wide.stream("hey", **LONG)
    text = next(stream)
    [request_id] = running(wide)
    client.query("move", {"request_id": request_id})
    wait_for(lambda: not before <= pids(wide))
    assert text + "".join(stream) == expected
    [latest] = client.query("requests", {"limit": 1, "label": wide.spec.label})["requests"]
    assert (latest["pod_losses"], latest["attempts"]) == (losses, 1 + losses)
    assert client.query("withdraw_fault", {"fault_id": fault_id})["pod_id"]


def test_a_pod_dies_before_it_has_prefilled(wide: deepserve.Model) -> None:
    expected = "".join(wide.stream("hey", max_tokens=20, temperature=0))
    client = current_client()
    fault_id = client.query("order_fault", {"step": 2, "when": "start"})["fault_id"]  # the first tokenises
    assert "".join(wide.stream("hey", max_tokens=20, temperature=0)) == expected
    [latest] = client.query("requests", {"limit": 1, "label": wide.spec.label})["requests"]
    assert latest["pod_losses"] == 1 and client.query("withdraw_fault", {"fault_id": fault_id})["pod_id"]


def test_a_stream_is_moved_again_and_again(wide: deepserve.Model) -> None:
    expected = "".join(wide.stream("hey", **LONG))
    scale(wide, min_pods=2, max_pods=2)
    wait_for(lambda: ready(wide) == 2)
    client, text = current_client(), ""
    for number, piece in enumerate(wide.stream("hey", **LONG)):
        text += piece
        if number in (2, 60, 200):
            places = running(wide)
            for request_id in places:
                client.query("move", {"request_id": request_id})
            if number == 2:  # nobody reads on in it until it has moved, so that it is not over before
                wait_for(lambda places=places: places and running(wide) != places)
    assert text == expected
    [latest] = client.query("requests", {"limit": 1, "label": wide.spec.label})["requests"]
    assert latest["attempts"] > 1 and latest["pod_losses"] == 0
    with pytest.raises(deepserve.errors.NotFound, match="no request"):
        client.query("move", {"request_id": "rq-9"})


def running(llm: deepserve.Model) -> dict[str, str]:
    """By request, the pod where it is."""
    found = current_client().query("requests", {"label": llm.spec.label, "limit": 0})["requests"]
    return {request["request_id"]: request["pod_id"] for request in found if request["state"] == "running"}
