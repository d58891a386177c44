"""`deepserve model chat`: one question, or a conversation at a terminal."""

from __future__ import annotations

import sys
from dataclasses import asdict
from typing import Any

from deepserve._model import Model
from deepserve.cli.connection import connected
from deepserve.cli.exit_codes import OK, UsageError
from deepserve.cli.output import print_json


def chat_with(name: str, prompt: str | None, *, system: str, sampling: dict[str, Any], as_json: bool) -> int:
    """Without a prompt it reads lines, and remembers what was said; from a pipe it reads one prompt, to its end."""
    sampling = {key: value for key, value in sampling.items() if value is not None}
    messages = [{"role": "system", "content": system}] if system else []
    with connected():
        model = Model.from_name(name)
        if prompt is None and sys.stdin.isatty():
            if as_json:
                raise UsageError("--json takes one prompt: name it, or pipe it in")
            return converse(model, messages, sampling)
        asked = sys.stdin.read() if prompt is None else prompt
        if not asked.strip():
            raise UsageError("there is no prompt")
        messages.append({"role": "user", "content": asked})
        if as_json:
            result = model.chat(messages, **sampling)
            print_json({"text": result.text, "finish_reason": result.finish_reason, "usage": asdict(result.usage)})
        else:
            say(model, messages, sampling)
    return OK


def converse(model: Model, messages: list[dict[str, Any]], sampling: dict[str, Any]) -> int:
    """Until the end of the input."""
    while True:
        try:
            asked = input("> ")
        except EOFError:
            print()
            return OK
        if asked.strip():
            messages.append({"role": "user", "content": asked})
            messages.append({"role": "assistant", "content": say(model, messages, sampling)})


def say(model: Model, messages: list[dict[str, Any]], sampling: dict[str, Any]) -> str:
    """The answer, printed as it comes."""
    pieces: list[str] = []
    for piece in model.stream(messages, **sampling):
        print(piece, end="", flush=True)
        pieces.append(piece)
    print()
    return "".join(pieces)
