"""A controller in a process of its own, and clients that talk to it frame by frame."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from deepserve.protocol import PROTOCOL_VERSION
from deepserve.protocol.framing import FrameReader, encode_frame
from deepserve.protocol.messages import (
    Answer,
    DefineFunction,
    Hello,
    Message,
    OpenRequest,
    Query,
    RequestFinished,
    Value,
    Welcome,
)
from deepserve.protocol.specs import CodeRef, FunctionSpec, Scaling, function_id
from tests.waiting import TIMEOUT_S, wait_for

START = str(Path(__file__).parent / "start.py")
M = TypeVar("M", bound=Message)


class Client:
    def __init__(self, connection: socket.socket) -> None:
        self.socket = connection
        self.socket.settimeout(TIMEOUT_S)
        self.reader = FrameReader()
        self.waiting: list[tuple[Message, bytes]] = []
        self.queries = 0

    @classmethod
    def dial(cls, path: str) -> Client:
        connection = socket.socket(socket.AF_UNIX)
        connection.settimeout(TIMEOUT_S)
        connection.connect(path)
        return cls(connection)

    def hello(self, **changes: Any) -> Client:
        fields: dict[str, Any] = {"version": PROTOCOL_VERSION, "role": "client", "name": "test"}
        self.send(Hello(**{**fields, **changes}))
        return self

    def send(self, message: Message, payload: bytes = b"") -> None:
        self.socket.sendall(encode_frame(message, payload))

    def next(self) -> tuple[Message, bytes]:
        """Raises EOFError, TimeoutError."""
        while (frame := self.reader.next_frame()) is None:
            data = self.socket.recv(1 << 18)
            if not data:
                raise EOFError
            self.reader.feed(data)
        return frame.message, frame.payload

    def expect(self, kind: type[M], accept: Callable[[M], bool] = lambda message: True) -> tuple[M, bytes]:
        """The first message of this kind, whether it came already or not; others stay for later."""
        for position, (message, payload) in enumerate(self.waiting):
            if isinstance(message, kind) and accept(message):
                del self.waiting[position]
                return message, payload
        while True:
            message, payload = self.next()
            if isinstance(message, kind) and accept(message):
                return message, payload
            self.waiting.append((message, payload))

    def define(self, name: str = "work", digest: str = "", **changes: Any) -> str:
        code = CodeRef("bundle" if digest else "builtin", "fake", name, digest)
        scaling = changes.pop("scaling", Scaling(max_pods=1))
        spec = FunctionSpec("app", name, "function", code, scaling=scaling, **changes)
        found = function_id(spec)
        self.send(DefineFunction(found, spec))
        return found

    def open(self, request_id: str, function: str, method: str = "", payload: bytes = b"", **more: Any) -> None:
        value = Value("msgpack", len(payload)) if payload else Value()
        self.send(OpenRequest(request_id, function, method=method, **{"value": value, **more}), payload)

    def finished(self, request_id: str) -> tuple[RequestFinished, bytes]:
        return self.expect(RequestFinished, lambda message: message.request_id == request_id)

    def query(self, what: str, /, **body: Any) -> Answer:
        self.queries += 1
        query_id = self.queries
        self.send(Query(query_id, what, body))
        return self.expect(Answer, lambda message: message.query_id == query_id)[0]

    def close(self) -> None:
        self.socket.close()


class Controller:
    """The process; `owner` is the embedded one's lifeline."""

    def __init__(self, folder: Path, *arguments: str, embedded: bool = True) -> None:
        self.folder = folder
        environment = {**os.environ, "XDG_RUNTIME_DIR": str(folder), "XDG_STATE_HOME": str(folder / "state")}
        self.runtime = folder / "deepserve"
        ours, theirs = socket.socketpair()
        mode = ["--embedded", "--client-fd", str(theirs.fileno())] if embedded else ["--up"]
        self.stderr = open(folder / "stderr", "a+")
        self.process = subprocess.Popen(
            [sys.executable, START, *mode, *arguments],
            pass_fds=(theirs.fileno(),),
            env=environment,
            stderr=self.stderr,
            start_new_session=True,
        )
        theirs.close()
        if embedded:
            self.owner = Client(ours)
            self.welcome = self.owner.hello().expect(Welcome)[0]
        else:
            ours.close()

    def wait_until_up(self) -> Controller:
        wait_for(lambda: self.announced_pid() == self.process.pid or self.process.poll() is not None)
        assert self.process.poll() is None, self.said()
        return self

    def announced_pid(self) -> int:
        try:
            return int(json.loads((self.runtime / "up.json").read_text())["pid"])
        except OSError:
            return 0

    def dial(self) -> Client:
        client = Client.dial(str(self.runtime / "up.sock"))
        self.welcome = client.hello().expect(Welcome)[0]
        return client

    @property
    def socket(self) -> str:
        return os.path.join(self.welcome.folder, "controller.sock")

    def said(self) -> str:
        self.stderr.seek(0)
        return self.stderr.read()

    def stop(self) -> int:
        if hasattr(self, "owner"):
            self.owner.close()
        else:
            self.process.terminate()
        return self.process.wait(TIMEOUT_S)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait(TIMEOUT_S)
        self.stderr.close()


def is_alive(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
