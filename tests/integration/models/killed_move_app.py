"""A script whose controller is killed in the middle of a device move; run by test_killed_moves.py.

Two models on a host that pretends to have two NPUs. What runs on the one that the other model needs is a stream that
nobody reads on in, a call and a stream of the OpenAI API: the controller moves them, and dies as was ordered.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

import openai

import deepserve
from deepserve import _current_client

folder, when, step = sys.argv[1:4]
app = deepserve.App("moves")
either = deepserve.Model("either", source=folder, accelerator=["npu:910c", "npu:910b"], max_pods=1)
fast = deepserve.Model("fast", source=folder, accelerator="npu:910c", max_pods=1)
LONG: Any = {"max_tokens": 8000, "temperature": 0}


def chat(client: openai.OpenAI) -> Iterator[str]:
    asked: Any = [{"role": "user", "content": "hi"}]
    for chunk in client.chat.completions.create(messages=asked, stream=True, extra_body={"ignore_eos": True}, **LONG):
        yield chunk.choices[0].delta.content or ""


class Reader(threading.Thread):
    """Takes pieces until the end, whose error it keeps."""

    def __init__(self, pieces: Callable[[], Iterator[str]]) -> None:
        super().__init__(daemon=True)
        self._pieces = pieces
        self.has_begun = threading.Event()
        self.text = ""
        self.error: Exception | None = None

    def run(self) -> None:
        try:
            for piece in self._pieces():
                self.text += piece
                self.has_begun.set()
        except Exception as error:
            self.error = error


def check_again(what: str, got: str, pieces: Iterator[str]) -> None:
    """What came before the controller was lost is the beginning of what comes now."""
    text = ""
    while len(text) < len(got):
        text += next(pieces)
    assert got and text.startswith(got), f"{what}: a token was lost, or came twice"


def main() -> None:
    if "--deploy" in sys.argv:
        from deepserve.cli.deploy import deploy_app

        deploy_app(_current_client.current_client(), app, "moves", [either, fast])
    stream = either.stream("hi", ignore_eos=True, **LONG)
    text = next(stream)
    segments = _current_client.current_client().welcome.segments
    with either.openai(max_retries=0) as client:
        told = Reader(lambda: chat(client))
        asked = Reader(lambda: iter([either.generate("ho", ignore_eos=True, **LONG)]))
        for reader in (told, asked):
            reader.start()
        told.has_begun.wait(60)
        order = {"step": int(step), "when": when, "victim": "controller"}
        _current_client.current_client().query("order_fault", order)
        for call in (lambda: fast.generate("hi", max_tokens=4), lambda: list(stream)):
            try:
                raise AssertionError(f"the controller was not lost: {call()}")
            except deepserve.errors.ControllerLost:
                pass
        for reader in (told, asked):
            reader.join(60)
    assert isinstance(asked.error, deepserve.errors.ControllerLost), asked.error
    assert told.error is not None, "a stream that was cut off looks as if it had ended well"
    print(f"lost {segments}", flush=True)
    sys.stdin.readline()
    check_again("stream", text, either.stream("hi", ignore_eos=True, **LONG))
    with either.openai(max_retries=0) as client:
        check_again("chat", told.text, chat(client))
    assert fast.generate("hi", max_tokens=4, temperature=0)
    print("again", flush=True)


if __name__ == "__main__":
    main()
