"""Scripted models: what a test wrote down in place of an engine, for its own process and for pods."""

from __future__ import annotations

import json
import os
import socket
import threading
from collections.abc import Sequence
from tempfile import mkdtemp
from typing import Any

import msgspec

from deepserve._model import Model
from deepserve._scripted_requests import NOTHING_SAID, Answer, Asked, read_frame, write_frame
from deepserve.protocol.model_io import ChatInput, CompletionInput, Generated, ToolCall


def tool_call(name: str, /, **arguments: Any) -> Generated:
    """A scripted answer: the model wants this tool called."""
    return Generated("", "tool_calls", 0, 0, [ToolCall(f"call-{name}", name, arguments)])


class ScriptedModel:
    """What one model says in a test. asked: its requests so far, in the order of their arrival."""

    def __init__(self, name: str, answers: Sequence[Any]) -> None:
        self.name = name
        self.answers = [_generated(answer) for answer in answers]
        self.asked: list[ChatInput | CompletionInput] = []

    def answer(self, asked: Asked) -> Answer:
        if asked.value is None:
            return Answer("generated", NOTHING_SAID)
        self.asked.append(asked.value)
        if len(self.asked) > len(self.answers):
            text = f"the script of model {self.name!r} has {len(self.answers)} answers; one more was asked for"
            return Answer("exhausted", text=f"{text}: {_last_words(asked.value)!r}")
        return Answer("generated", self.answers[len(self.asked) - 1])


class Scripts:
    """Serves the scripts of a test over a unix socket at `path`, since models are asked by pods, too."""

    def __init__(self) -> None:
        self._folder = mkdtemp(prefix="ds-script-")
        self.path = os.path.join(self._folder, "scripts.sock")
        self._models: dict[str, ScriptedModel] = {}
        self._lock = threading.Lock()
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._listener.bind(self.path)
        self._listener.listen(64)
        threading.Thread(target=self._serve, name="deepserve-scripts", daemon=True).start()

    def add(self, model: Model, answers: Sequence[Any]) -> ScriptedModel:
        """From now on `model`, and every model of its name, says these. A second script takes the first one's place."""
        if not isinstance(model, Model):
            raise TypeError(f"scripted_model takes a deepserve.Model, not {model!r}")
        if isinstance(answers, str) or not isinstance(answers, Sequence):
            raise TypeError(f"scripted_model takes a list of answers, not {answers!r}")
        scripted = ScriptedModel(model.name, answers)
        with self._lock:
            self._models[model.name] = scripted
        return scripted

    def end_test(self) -> None:
        """AssertionError where answers are left; the scripts end with their test."""
        with self._lock:
            ended, self._models = self._models, {}
        for scripted in ended.values():
            num_all, num_left = len(scripted.answers), len(scripted.answers) - len(scripted.asked)
            text = f"{num_left} of the {num_all} scripted answers of model {scripted.name!r} were not asked for"
            assert num_left <= 0, text

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        os.unlink(self.path)
        os.rmdir(self._folder)

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:  # closed
                return
            with connection:
                try:
                    asked = msgspec.msgpack.decode(read_frame(connection), type=Asked)
                    write_frame(connection, msgspec.msgpack.encode(self._answer(asked)))
                except (OSError, EOFError):  # the asker is gone
                    continue

    def _answer(self, asked: Asked) -> Answer:
        with self._lock:
            scripted = self._models.get(asked.model)
            return Answer("unscripted") if scripted is None else scripted.answer(asked)


def _generated(answer: Any) -> Generated:
    if isinstance(answer, Generated):
        return answer
    if isinstance(answer, str):
        return Generated(answer, "stop", 0, 0)
    try:
        text = json.dumps(msgspec.to_builtins(answer), ensure_ascii=False)
    except TypeError:
        what = "a text, plain data, or tool_call(...) of deepserve.testing"
        raise TypeError(f"scripted_model: {answer!r} is nothing that a model says: an answer is {what}") from None
    return Generated(text, "stop", 0, 0)


def _last_words(value: ChatInput | CompletionInput) -> str:
    said = value.prompt if isinstance(value, CompletionInput) else value.messages[-1].get("content")
    return str(said)[:200]
