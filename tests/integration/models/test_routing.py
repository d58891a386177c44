"""Prompts of real models find the pod that holds their beginning."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import deepserve
from deepserve._current_client import current_client
from tests.waiting import wait_for

LABEL = "models/twin"


def status() -> dict[str, Any]:
    return current_client().query("status")


def last_pod() -> str:
    """Of the request that finished last."""
    return str([request["pod_id"] for request in status()["requests"] if request["label"] == LABEL][-1])


def has_two_pods() -> bool:
    return any(view["label"] == LABEL and view["ready"] == 2 for view in status()["functions"])


def test_the_next_turn_of_a_conversation_goes_where_its_cache_is(folder: Path) -> None:
    llm = deepserve.Model("twin", source=folder, min_pods=2, max_pods=2)
    llm.generate("hi", max_tokens=1, temperature=0)
    wait_for(has_two_pods)
    llm.generate("hi", max_tokens=1, temperature=0)
    first_pod = last_pod()  # where equals go
    for number in range(10):  # the stream may be over before the chat comes
        messages = [{"role": "user", "content": f"{number}. The quick brown fox jumps over the lazy dog. " * 12}]
        stream = llm.stream("Busy.", max_tokens=400, temperature=1.0, seed=1, ignore_eos=True)
        next(stream)
        answer = llm.chat(messages, max_tokens=8, temperature=0).text
        home = last_pod()
        stream.close()
        if home != first_pod:
            break
    assert home != first_pod
    wait_for(lambda: not status()["num_running"])
    numbers = itertools.count()

    def equals_go_there() -> bool:
        """Once what engines report of the stream, a moment after its end, is known."""
        llm.generate(f"{next(numbers)} short.", max_tokens=1, temperature=0)
        return last_pod() == first_pod

    wait_for(equals_go_there)
    messages += [{"role": "assistant", "content": answer}, {"role": "user", "content": "Go on."}]
    llm.chat(messages, max_tokens=8, temperature=0)
    assert last_pod() == home
    [latest] = current_client().query("requests", {"limit": 1, "label": LABEL})["requests"]
    assert latest["route"].startswith(f"{home}: holds ")
