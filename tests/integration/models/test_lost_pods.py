"""A model's pod that dies: its requests go on in another one, with the tokens that would have come."""

from __future__ import annotations

import os
import random
import signal
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

import deepserve
from deepserve._current_client import current_client
from deepserve.errors import PodLost
from tests.waiting import wait_for, wait_until_they_work

LONG: Any = {"max_tokens": 120, "temperature": 0}


def kill_pods() -> int:
    """How many there were to kill: one that is listed may just have ended."""
    killed = 0
    for pod in pods("flowserve"):
        with suppress(ProcessLookupError):
            os.kill(pod, signal.SIGKILL)
            killed += 1
    return killed


def test_pods_killed_while_they_stream(llm: deepserve.Model) -> None:
    """At random places, and again in the attempt that follows."""
    undisturbed = list(llm.stream("hi", **LONG))
    text = "".join(undisturbed)
    assert len(undisturbed) > 20
    chance = random.Random(8)
    for _ in range(2):
        kills = sorted(chance.sample(range(1, len(text) * 3 // 4), 2))
        got = ""
        for piece in llm.stream("hi", **LONG):
            got += piece
            if kills and len(got) >= kills[0]:
                kill_pods()
                kills.pop(0)
        assert got == text and not kills


def test_a_stream_without_a_seed_goes_on_from_what_its_reader_has(llm: deepserve.Model) -> None:
    pieces = []
    for number, piece in enumerate(llm.stream("hi", max_tokens=80, temperature=1.0, ignore_eos=True)):
        pieces.append(piece)
        if number == 5:
            assert kill_pods()
    assert len(pieces) > 20


def test_pods_killed_under_calls_and_many_streams(llm: deepserve.Model) -> None:
    """While they load, prefill and decode, with several requests on each."""
    prompts = [f"hi {number}" for number in range(6)]
    expected = [llm.generate(prompt, **LONG) for prompt in prompts]
    expected_streams = ["".join(llm.stream(prompt, **LONG)) for prompt in prompts[:3]]
    got: dict[int, str] = {}
    said = threading.Event()

    def read(i: int, prompt: str) -> None:
        pieces = []
        for piece in llm.stream(prompt, **LONG):
            pieces.append(piece)
            said.set()
        got[i] = "".join(pieces)

    threads = [
        threading.Thread(target=lambda i=i, p=p: got.update({i: llm.generate(p, **LONG)}))
        for i, p in enumerate(prompts)
    ]
    threads += [threading.Thread(target=read, args=(6 + i, p)) for i, p in enumerate(prompts[:3])]
    for thread in threads:
        thread.start()
    assert said.wait(60)
    kill_pods()
    for thread in threads:
        thread.join(120)
    assert [got[i] for i in range(9)] == expected + expected_streams


def test_a_prompt_that_kills_each_pod_ends(llm: deepserve.Model) -> None:
    """Before anything of it was said, again and again: its first task tokenises it, the others are its attempts."""
    llm.generate("hi", max_tokens=1, temperature=0)
    client = current_client()
    for _ in range(3):  # a task that one of them takes is not counted for the others
        client.query("order_fault", {"step": 2, "when": "start"})
    with pytest.raises(PodLost, match="the last of 3 pods lost under it"):
        llm.generate("poison", max_tokens=1, temperature=0)
    assert llm.generate("hi", max_tokens=1, temperature=0)


def test_killed_while_it_loads_or_is_forked(llm: deepserve.Model) -> None:
    """The pod, or the template that it is forked from: at once, when the first new process is there, or when the second
    is. With the pod before it, which may not be known to be dead when the request comes, these are as many losses as a
    request survives."""
    expected = llm.generate("hi", max_tokens=5, temperature=0)
    for victims, num_new in ((pods, 0), (templates, 1), (pods, 1), (templates, 2), (pods, 2)):
        kill_pods()
        _, old = processes("flowserve")
        with ThreadPoolExecutor(1) as threads:
            call = threads.submit(llm.generate, "hi", max_tokens=5, temperature=0)
            wait_for(lambda call=call, old=old, num=num_new: call.done() or len(processes("flowserve")[1] - old) >= num)
            for pid in victims("flowserve"):
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            assert call.result(120) == expected


def test_streams_of_the_openai_api(llm: deepserve.Model) -> None:
    pytest.importorskip("openai")
    asked: Any = {
        "messages": [{"role": "user", "content": "hi"}],
        "max_tokens": 400,
        "temperature": 0,
        "extra_body": {"ignore_eos": True},
    }
    with llm.openai(max_retries=0) as client:
        expected = client.chat.completions.create(**asked).choices[0].message.content

        def streamed() -> None:
            text, ids, usage = "", set(), None
            options = {"include_usage": True}
            stream = client.chat.completions.create(**asked, stream=True, stream_options=options)
            for number, chunk in enumerate(stream):
                ids.add((chunk.id, chunk.created))
                text += "".join(choice.delta.content or "" for choice in chunk.choices)
                usage = chunk.usage or usage
                if number in (1, 60):
                    kill_pods()
            assert text == expected and len(ids) == 1 and usage is not None and usage.completion_tokens == 400

        until_lost(llm, streamed)


SEVERAL: Any = {"n": 2, "logprobs": 1, "max_tokens": 300, "seed": 4, "extra_body": {"ignore_eos": True}}


def test_several_completions_with_log_probabilities(llm: deepserve.Model) -> None:
    pytest.importorskip("openai")
    with llm.openai(max_retries=0) as client:
        whole = client.completions.create(prompt=["hi", "ho"], echo=True, **SEVERAL)
        expected = [(choice.text, choice.finish_reason, choice.logprobs.tokens) for choice in whole.choices]

        def streamed() -> list[Any]:
            choices: list[Any] = [["", None, []] for _ in range(4)]
            for number, chunk in enumerate(
                client.completions.create(prompt=["hi", "ho"], echo=True, stream=True, **SEVERAL)
            ):
                for choice in chunk.choices:
                    choices[choice.index][0] += choice.text
                    choices[choice.index][1] = choice.finish_reason
                    choices[choice.index][2] += choice.logprobs.tokens if choice.logprobs else []
                if number in (1, 60):
                    kill_pods()
            return [tuple(choice) for choice in choices]

        def at_once() -> list[Any]:
            with ThreadPoolExecutor(1) as threads:
                call = threads.submit(client.completions.create, prompt=["hi", "ho"], echo=True, **SEVERAL)
                wait_until_it_runs(llm)
                kill_pods()
                choices = call.result(120).choices
            numbers = [number for choice in choices for number in choice.logprobs.token_logprobs[1:]]
            wanted = [number for choice in whole.choices for number in choice.logprobs.token_logprobs[1:]]
            assert numbers == pytest.approx(wanted, abs=1e-3)
            return [(choice.text, choice.finish_reason, choice.logprobs.tokens) for choice in choices]

        for ask in (streamed, at_once):
            until_lost(llm, lambda ask=ask: compare(ask(), expected))


def test_responses(llm: deepserve.Model) -> None:
    """With the same items under the same ids, and events numbered through."""
    pytest.importorskip("openai")
    asked: Any = {"input": "hi", "max_output_tokens": 400, "temperature": 0}
    with llm.openai(max_retries=0) as client:
        expected = client.responses.create(**asked)

        def streamed() -> None:
            events = []
            for number, event in enumerate(client.responses.create(**asked, stream=True)):
                events.append(event)
                if number in (5, 60):
                    kill_pods()
            assert [event.sequence_number for event in events] == list(range(len(events)))
            text = "".join(event.delta for event in events if event.type == "response.output_text.delta")
            assert text == expected.output_text == events[-1].response.output_text
            ids = {event.item_id for event in events if event.type == "response.output_text.delta"}
            assert ids == {item.id for item in events[-1].response.output}
            assert events[0].response.id == events[-1].response.id

        until_lost(llm, streamed)


def compare(got: list[Any], expected: list[Any]) -> None:
    assert got == expected


def until_lost(llm: deepserve.Model, ask: Any) -> None:
    """An engine may be done before its reader has come to where the kill is."""
    for _ in range(8):
        ask()
        [latest] = current_client().query("requests", {"limit": 1, "label": llm.spec.label})["requests"]
        if latest["pod_losses"]:
            return
    raise AssertionError("no pod was lost under it")


def wait_until_it_runs(llm: deepserve.Model) -> None:
    """And has come some way."""

    def is_running() -> bool:
        running = current_client().query("requests", {"limit": 0, "label": llm.spec.label})["requests"]
        return any(request["state"] == "running" for request in running)

    wait_for(is_running)
    wait_until_they_work(pods("flowserve"), ticks=5)


def pods(environment: str) -> list[int]:
    """Processes below this one that were forked from the template of `environment`."""
    parents, found = processes(environment)
    return [pid for pid in found if parents[pid] in found]


def templates(environment: str) -> list[int]:
    parents, found = processes(environment)
    return [pid for pid in found if parents[pid] not in found]


def processes(environment: str) -> tuple[dict[int, int], set[int]]:
    """The parent of each process, and those below the controller that have the environment's command line, which the
    controller has as well where this environment is its first."""
    parents, found = {}, set()
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdigit():
                parents[int(entry.name)] = int((entry / "stat").read_text().rsplit(")", 1)[1].split()[1])
                if f"--environment\0{environment}\0" in (entry / "cmdline").read_text():
                    found.add(int(entry.name))
        except OSError:
            continue
    controller = current_client().query("status")["pid"]

    def is_below_the_controller(pid: int) -> bool:
        while pid and parents.get(pid) != controller:
            pid = parents.get(pid, 0)
        return pid != 0

    return parents, {pid for pid in found if is_below_the_controller(pid)}
