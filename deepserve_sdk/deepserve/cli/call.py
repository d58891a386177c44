"""`deepserve call`: a deployed function with JSON arguments, without the function's code at hand."""

from __future__ import annotations

import json
import sys
from contextlib import redirect_stdout
from typing import Any, Literal, NamedTuple, TextIO

import msgspec

from deepserve._client import Client
from deepserve._definition import Definition
from deepserve._deployed import look_up_deployed
from deepserve._inbox import Deadline, Inbox, StreamItem
from deepserve.cli.connection import connected, query
from deepserve.cli.exit_codes import OK, UsageError
from deepserve.cli.output import print_json
from deepserve.errors import NotFound
from deepserve.protocol.messages import Value


class Printer(NamedTuple):
    """Text as it is, everything else (or everything, with --json) as JSON; a line each."""

    out: TextIO
    as_json: bool

    def write(self, value: Any) -> None:
        if self.as_json or not isinstance(value, str):
            print_json(value, self.out)
        else:
            print(value, file=self.out, flush=True)


def call_function(
    target: str, arguments: str, *, stream: bool, detach: bool, timeout_s: float | None, as_json: bool
) -> int:
    """Values travel as MessagePack: what the function returns must have a JSON shape."""
    payload = msgspec.msgpack.encode(named_arguments(arguments))
    out = sys.stdout
    # What the function prints goes to stderr: stdout is the result, for pipes.
    with redirect_stdout(sys.stderr), connected() as client:
        definition, method, kind = find(target)
        if not detach and stream != (kind == "stream"):
            raise UsageError(f"{target} is {'no' if stream else 'a'} generator: call it with{'out' * stream} --stream")
        value = Value("msgpack", len(payload))
        inbox = client.open_request(definition, kind, value, payload, method=method, keep=detach)
        if detach:
            print_call_id(client, inbox, as_json, out)
        elif stream:
            print_items(client, inbox, target, timeout_s, Printer(out, as_json))
        else:
            Printer(out, as_json).write(finished_value(client, inbox, target, timeout_s))
    return OK


class Found(NamedTuple):
    """method: of a class, else empty."""

    definition: Definition
    method: str
    kind: Literal["call", "stream"]


def find(target: str) -> Found:
    """What APP/FUNCTION or APP/CLASS.METHOD names. Raises UsageError, NotFound."""
    app, separator, name = target.partition("/")
    if not (separator and app and name):
        raise UsageError(f"{target!r} names no function: write APP/FUNCTION or APP/CLASS.METHOD")
    method = ""
    try:
        definition = look_up_deployed(app, name)
    except NotFound:
        class_name, _, method = name.rpartition(".")
        if not class_name:
            raise
        definition = look_up_deployed(app, class_name)
    spec = definition.spec
    assert spec is not None
    if spec.kind == "model":
        raise UsageError(f"{target} is a model: deepserve model chat {name}")
    if spec.kind == "class" and method not in spec.methods:
        there = ", ".join(f"{app}/{spec.name}.{name}" for name in sorted(spec.methods))
        raise (NotFound if method else UsageError)(f"{target} is no method of a class; there are: {there}")
    return Found(definition, method, spec.methods.get(method) or ("stream" if spec.is_generator else "call"))


def named_arguments(text: str) -> dict[str, Any]:
    """{"args": [...], "kwargs": {...}} from a JSON object (named) or list (in order). Raises UsageError."""
    try:
        given = json.loads(text)
    except json.JSONDecodeError as error:
        raise UsageError(f"the arguments are no JSON: {error}") from None
    match given:
        case dict():
            return {"args": [], "kwargs": given}
        case list():
            return {"args": given, "kwargs": {}}
        case _:
            raise UsageError(f"the arguments must be a JSON object or list, not {text}")


def print_call_id(client: Client, inbox: Inbox, as_json: bool, out: TextIO) -> None:
    query(client, "result_info", request_id=inbox.request_id)  # it has arrived before this process ends
    if as_json:
        print_json({"call_id": inbox.request_id}, out)
    else:
        print(inbox.request_id, file=out)


def wait_for_news(client: Client, inbox: Inbox, label: str, deadline: Deadline) -> None:
    """Raises TimeoutError, with the request cancelled."""
    if not client.waiting.for_news(inbox, deadline.left_s):
        client.cancel(inbox.request_id)
        raise TimeoutError(f"{label} gave no result in time; the call was cancelled")


def finished_value(client: Client, inbox: Inbox, label: str, timeout_s: float | None) -> Any:
    deadline = Deadline.after(timeout_s)
    while not inbox.is_over:
        wait_for_news(client, inbox, label, deadline)
    return client.values.result(inbox, label)


def print_items(client: Client, inbox: Inbox, label: str, timeout_s: float | None, printer: Printer) -> None:
    """One line per item; with --json each line is a JSON document."""
    deadline = Deadline.after(timeout_s)
    while not inbox.is_over or inbox.items:
        if not inbox.items:
            wait_for_news(client, inbox, label, deadline)
            continue
        item = inbox.items.popleft()
        assert isinstance(item.message, StreamItem), item.message
        client.readers.took(inbox, item.message.value)
        printer.write(client.values.decode(item.message.value, item.payload))
    client.values.result(inbox, label)
