"""A pod without a process: what would be written to the link is kept."""

from __future__ import annotations

from typing import Any, TypeVar, cast

import msgspec

from deepserve.protocol.framing import Buffer
from deepserve.protocol.journals import unpacked
from deepserve.protocol.messages import AssignTask, Message, TaskFinished, TaskOutputs, Value
from deepserve_runtime.pod import Pod
from deepserve_runtime.task import Task

M = TypeVar("M", bound=Message)


class FakeLink:
    def __init__(self) -> None:
        self.sent: list[tuple[Message, bytes]] = []

    def send(self, message: Message, payload: Buffer = b"") -> None:
        if isinstance(message, TaskOutputs):  # as the controller reads them
            message, payload = unpacked(message, bytes(payload))
        self.sent.append((message, bytes(payload)))

    def of(self, kind: type[M]) -> list[tuple[M, bytes]]:
        return [(message, payload) for message, payload in self.sent if isinstance(message, kind)]


class FakePod:
    def __init__(self) -> None:
        self.pod_id = "pod-1"
        self.link = FakeLink()
        self.segments = ""
        self.bundles = "/nowhere"
        self.code = None
        self.is_copy = False

    def task(self, body: object = None, task_id: str = "t-1", **fields: Any) -> Task:
        """A task with plain arguments."""
        data = msgspec.msgpack.encode(body) if body is not None else b""
        value = Value("msgpack", len(data)) if data else Value()
        assignment = AssignTask(task_id, 1, "rq-1", "j-1", fields.pop("kind", "call"), value=value, **fields)
        return Task(cast(Pod, self), assignment, data, lambda task: None)

    @property
    def finished(self) -> TaskFinished:
        [(message, _)] = self.link.of(TaskFinished)
        return message
