"""A stand-in for the controller: starts a real template, has it fork pods, and talks to them frame by frame."""

from __future__ import annotations

import hashlib
import os
import socket
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from deepserve._values import decode_exception, decode_value, encode_value
from deepserve.protocol import PROTOCOL_VERSION
from deepserve.protocol.framing import Frame, FrameReader, encode_frame
from deepserve.protocol.messages import (
    AssignTask,
    BindExecutor,
    BundleContent,
    ExecutorFailed,
    ExecutorReady,
    FetchBundle,
    ForkPod,
    Hello,
    Message,
    PodExited,
    PodForked,
    TaskFinished,
    TemplateReady,
    Value,
    Welcome,
)
from deepserve.protocol.specs import CodeRef, FunctionSpec, Scaling

TIMEOUT_S = 60.0
PYTHON = f"{sys.version_info.major}.{sys.version_info.minor}"
M = TypeVar("M", bound=Message)


class Peer:
    """One end of a connection, with what arrived and was not asked for yet."""

    def __init__(self, connection: socket.socket) -> None:
        connection.settimeout(TIMEOUT_S)
        self.connection = connection
        self.reader = FrameReader()
        self.kept: list[Frame] = []

    def send(self, message: Message, payload: bytes = b"") -> None:
        self.connection.sendall(encode_frame(message, payload))

    def receive(self, *kinds: type[M]) -> tuple[M, bytes]:
        """The next message of one of `kinds`; others are kept in their order."""
        for index, frame in enumerate(self.kept):
            if isinstance(frame.message, kinds):
                del self.kept[index]
                return frame.message, frame.payload
        while True:
            while (found := self.reader.next_frame()) is not None:
                if isinstance(found.message, kinds):
                    return found.message, found.payload
                self.kept.append(found)
            try:
                data = self.connection.recv(1 << 20)
            except TimeoutError:
                raise TimeoutError(f"nothing came while waiting for {kinds}; kept {self.kept}") from None
            if not data:
                raise EOFError(f"closed while waiting for {kinds}; kept {self.kept}")
            self.reader.feed(data)


class StandIn:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.socket_path = str(folder / "c.sock")
        self.listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.listener.bind(self.socket_path)
        self.listener.listen(32)
        self.listener.settimeout(TIMEOUT_S)
        self.templates: list[tuple[subprocess.Popen[bytes], Peer]] = []
        self.pods: list[StandInPod] = []

    def start_template(self, environment: str = "python") -> Peer:
        ours, theirs = socket.socketpair()
        process = subprocess.Popen(
            [sys.executable, "-m", "deepserve_runtime.template", "--environment", environment]
            + ["--control-fd", str(theirs.fileno())],
            pass_fds=[theirs.fileno()],
            cwd=self.folder,
        )
        theirs.close()
        peer = Peer(ours)
        self.templates.append((process, peer))
        return peer

    def fork_pod(self, template: Peer, memory_mib: int = 0) -> StandInPod:
        pod = StandInPod(self, template, f"pod-{len(self.pods) + 1}", memory_mib)
        self.pods.append(pod)
        return pod

    def accept(self) -> tuple[Hello, Peer]:
        peer = Peer(self.listener.accept()[0])
        hello, _ = peer.receive(Hello)
        return hello, peer

    def close(self) -> None:
        for pod in self.pods:
            pod.link.connection.close()
        for process, peer in self.templates:
            peer.connection.close()
            process.wait(TIMEOUT_S)
        self.listener.close()


class StandInPod:
    """A pod that has just been forked and has dialled in."""

    def __init__(self, controller: StandIn, template: Peer, pod_id: str, memory_mib: int) -> None:
        self.controller = controller
        self.template = template
        self.pod_id = pod_id
        self.output = {"stdout": bytearray(), "stderr": bytearray()}
        self.output_ended = {"stdout": threading.Event(), "stderr": threading.Event()}
        self._output_came = threading.Condition()
        self.has_exited = False
        self._next_task = 0
        token = f"token-of-{pod_id}"
        template.send(ForkPod(pod_id, token, controller.socket_path, memory_mib))
        hello, self.link = controller.accept()
        assert (hello.role, hello.name, hello.key) == ("pod", pod_id, token)
        self.pid = hello.pid
        self.link.send(
            Welcome(PROTOCOL_VERSION, "c-1", "embedded", PYTHON, str(controller.folder), str(controller.folder))
        )
        log_key = hashlib.sha256((token + "/log").encode()).hexdigest()[:32]
        for _ in range(2):
            hello, peer = controller.accept()
            assert (hello.role, hello.key) == ("log", log_key)
            stream = hello.name.removeprefix(f"{pod_id}/")
            threading.Thread(target=self._drain, args=(stream, peer), daemon=True).start()
        forked, _ = template.receive(PodForked)
        self.fork_ms = forked.fork_ms
        assert forked.pid == self.pid

    def _drain(self, stream: str, peer: Peer) -> None:
        peer.connection.settimeout(None)
        self.output[stream] += peer.reader.take_rest()
        while data := peer.connection.recv(1 << 16):
            with self._output_came:
                self.output[stream] += data
                self._output_came.notify_all()
        self.output_ended[stream].set()

    def bind(
        self, qualname: str, *, kind: str = "function", files: dict[str, str] | None = None, **spec: Any
    ) -> ExecutorReady:
        """Binds the pod to `qualname` of app.py in a bundle of `files`; answers the fetch of the bundle."""
        self.ask_bind(qualname, kind=kind, files=files, **spec)
        answer, payload = self.link.receive(ExecutorReady, ExecutorFailed)
        if isinstance(answer, ExecutorFailed):
            raise decode_exception(answer.value, payload)
        return answer

    def ask_bind(
        self, qualname: str, *, kind: str = "function", files: dict[str, str] | None = None, max_inputs: int = 1,
        code: CodeRef | None = None, content: bytes | None = None, kv_bytes: int = 0, **spec: Any,
    ) -> None:  # fmt: skip
        if content is None and files is not None:
            content = bundle_of(files)
        code = code or CodeRef("bundle", "app", qualname, digest_of(files or {}), "app", PYTHON)
        scaling = Scaling(max_inputs=max_inputs)
        function = FunctionSpec("app", qualname, kind, code, scaling=scaling, **spec)  # type: ignore[arg-type]
        self.link.send(BindExecutor("fn-1", function, kv_bytes=kv_bytes))
        if content is not None and not (self.controller.folder / "bundles" / code.digest).exists():
            fetch, _ = self.link.receive(FetchBundle)
            self.link.send(BundleContent(fetch.digest, "files"), content)

    def assign(self, *args: Any, kind: str = "call", method: str = "", credit: int = 0, attempt: int = 1) -> str:
        value, payload = encode_value((args, {}))
        return self.assign_value(value, payload, kind=kind, method=method, credit=credit, attempt=attempt)

    def assign_value(self, value: Value, payload: bytes, *, kind: str = "call", **fields: Any) -> str:
        self._next_task += 1
        task_id = f"t-{self._next_task}"
        attempt = fields.pop("attempt", 1)
        message = AssignTask(task_id, attempt, f"rq-{self._next_task}", "j-1", kind, value=value, **fields)  # type: ignore[arg-type]
        self.link.send(message, payload)
        return task_id

    def call(self, *args: Any, method: str = "") -> Any:
        """Assigns and waits; the result, or the pod's exception raised here."""
        self.assign(*args, method=method)
        return self.result()

    def result(self) -> Any:
        finished, payload = self.link.receive(TaskFinished)
        if finished.outcome.is_ok:
            return decode_value(finished.value, payload)
        if finished.value.format == "exception":
            raise decode_exception(finished.value, payload)
        raise AssertionError(finished)

    def finished(self) -> TaskFinished:
        return self.link.receive(TaskFinished)[0]

    def exited(self) -> PodExited:
        exited, _ = self.template.receive(PodExited)
        assert exited.pod_id == self.pod_id
        self.has_exited = True
        return exited

    def wait_for_text(self, text: str) -> None:
        """Returns once user code has printed `text`."""
        with self._output_came:
            assert self._output_came.wait_for(lambda: text.encode() in self.output["stdout"], TIMEOUT_S), self.output

    def wait_for_output(self, stream: str) -> bytes:
        """Everything that was written until the pod ended."""
        assert self.output_ended[stream].wait(TIMEOUT_S)
        return bytes(self.output[stream])


def ready(template: Peer) -> TemplateReady:
    return template.receive(TemplateReady)[0]


def bundle_of(files: dict[str, str]) -> bytes:
    return msgspec.msgpack.encode({name: text.encode() for name, text in files.items()})


def digest_of(files: dict[str, str]) -> str:
    lines = (f"{name}\0{hashlib.sha256(files[name].encode()).hexdigest()}\n" for name in sorted(files))
    return hashlib.sha256("".join(lines).encode()).hexdigest()[:40]


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True
