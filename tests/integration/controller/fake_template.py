"""A template and pods that speak the protocol and run no user code: what they do is named by the request's method."""

from __future__ import annotations

import argparse
import hashlib
import os
import signal
import socket
import sys
import time

from deepserve.protocol import PROTOCOL_VERSION
from deepserve.protocol.framing import MAX_HEADER_BYTES, PREFIX, FrameReader, encode_frame
from deepserve.protocol.messages import (
    AssignTask,
    BindExecutor,
    CancelTask,
    DefineFunction,
    ExecutorReady,
    FetchBundle,
    ForkPod,
    Hello,
    Message,
    OpenRequest,
    Outcome,
    PodExited,
    PodForked,
    RequestFinished,
    StopPod,
    TaskBlocked,
    TaskCredit,
    TaskFinished,
    TaskOutputs,
    TaskResumed,
    TemplateFailed,
    TemplateReady,
    Value,
)
from deepserve.protocol.specs import CodeRef, FunctionSpec, Scaling


class Peer:
    """Blocking frames over one socket."""

    def __init__(self, connection: socket.socket) -> None:
        self.connection = connection
        self.reader = FrameReader()

    def send(self, message: Message, payload: bytes = b"") -> None:
        self.connection.sendall(encode_frame(message, payload))

    def receive(self) -> tuple[Message, bytes]:
        while (frame := self.reader.next_frame()) is None:
            data = self.connection.recv(1 << 18)
            if not data:
                raise EOFError
            self.reader.feed(data)
        return frame.message, frame.payload


def dial(order: ForkPod, role: str, name: str, key: str) -> socket.socket:
    connection = socket.socket(socket.AF_UNIX)
    connection.connect(order.socket)
    hello = Hello(PROTOCOL_VERSION, role, name, key, pid=os.getpid())  # type: ignore[arg-type]
    connection.sendall(encode_frame(hello))
    return connection


class Pod:
    def __init__(self, order: ForkPod) -> None:
        self.peer = Peer(dial(order, "pod", order.pod_id, order.token))
        log_key = hashlib.sha256((order.token + "/log").encode()).hexdigest()[:32]
        self.logs = {name: dial(order, "log", f"{order.pod_id}/{name}", log_key) for name in ("stdout", "stderr")}
        self.spec = None
        self.children = 0

    def run(self) -> None:
        while True:
            message, payload = self.peer.receive()
            match message:
                case BindExecutor():
                    self.bind(message)
                case AssignTask():
                    self.work(message, payload)
                case StopPod():
                    os._exit(0)

    def bind(self, message: BindExecutor) -> None:
        digest = message.spec.code.digest
        if digest:
            self.peer.send(FetchBundle(digest))
            found, content = self.peer.receive()
            if found.missing:  # type: ignore[attr-defined]
                os._exit(7)
            self.logs["stdout"].sendall(b"bundle " + content + b"\n")
        self.peer.send(ExecutorReady(message.function_id, message.spec.scaling.max_inputs, {"import": 1.0}))

    def work(self, task: AssignTask, payload: bytes) -> None:
        value = task.value
        match task.method:
            case "" | "echo":
                pass
            case "exit":
                os._exit(3)
            case "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            case "hang":
                return
            case "print":
                self.logs["stdout"].sendall(payload)
            case "daemon":
                payload, value = escape(), Value("msgpack", 8)
            case "stream":
                return self.stream(task, int(payload))
            case "call":
                payload = self.call_inside(task, payload)
            case "define":
                scaling = Scaling(min_pods=1, max_pods=1, scaledown_window_s=0.1)
                code = CodeRef("builtin", "fake", "child")
                self.peer.send(
                    DefineFunction("fn-child", FunctionSpec("app", "child", "function", code, scaling=scaling))
                )
            case "segment":
                payload, value = b"", Value("msgpack", 5, segment=payload.decode())
            case "late segment":
                while not isinstance(self.peer.receive()[0], CancelTask):
                    pass
                payload, value = b"", Value("msgpack", 5, segment=payload.decode())
            case "wordy":
                return self.finish_wordily(task)
            case "sleep":
                time.sleep(float(payload))
        self.finish(task, value, payload)

    def finish(self, task: AssignTask, value: Value, payload: bytes = b"", count: int = 0) -> None:
        finished = TaskFinished(task.task_id, task.attempt, Outcome("ok"), 0.1, value, count)
        self.peer.send(finished, payload)

    def finish_wordily(self, task: AssignTask) -> None:
        """With the largest header there may be: the controller's own answer would be larger still."""
        finished = TaskFinished(task.task_id, task.attempt, Outcome("ok"), 0.1, Value("msgpack", 1, "x" * (1 << 16)))
        room = MAX_HEADER_BYTES - (len(encode_frame(finished)) - PREFIX.size) - 2
        value = Value("msgpack", 1, "x" * ((1 << 16) + room))
        self.peer.send(TaskFinished(task.task_id, task.attempt, Outcome("ok"), 0.1, value), b"1")

    def stream(self, task: AssignTask, count: int) -> None:
        credit = task.credit
        for offset in range(count):
            while credit == 0:
                message, _ = self.peer.receive()
                if isinstance(message, TaskCredit):
                    credit += message.items
                elif isinstance(message, CancelTask):
                    cancelled = TaskFinished(task.task_id, task.attempt, Outcome("cancelled"), 0.1, count=offset)
                    return self.peer.send(cancelled)
            credit -= 1
            values = (Value("msgpack", len(str(offset))),)
            self.peer.send(TaskOutputs(task.task_id, task.attempt, offset, values), b"%d" % offset)
        self.finish(task, Value(), count=count)

    def call_inside(self, task: AssignTask, payload: bytes) -> bytes:
        """The payload is the id of the function to call."""
        self.children += 1
        request_id = f"{task.request_id}.{self.children}"
        self.peer.send(OpenRequest(request_id, payload.decode(), parent_task_id=task.task_id), b"from inside")
        self.peer.send(TaskBlocked(task.task_id))
        while True:
            message, answer = self.peer.receive()
            if isinstance(message, RequestFinished):
                self.peer.send(TaskResumed(task.task_id))
                return message.outcome.kind.encode() + b":" + answer


def escape() -> bytes:
    """A daemon in a session of its own, whose parent is gone; returns its process id."""
    read_end, write_end = os.pipe()
    if os.fork() == 0:
        os.setsid()
        if (pid := os.fork()) > 0:
            os.write(write_end, b"%8d" % pid)
            os._exit(0)
        for fd in range(3, 64):
            if fd not in (read_end, write_end):
                try:
                    os.close(fd)
                except OSError:
                    pass
        time.sleep(60)
        os._exit(0)
    os.wait()
    return os.read(read_end, 8)


def fork_pod(order: ForkPod, control: Peer) -> int:
    pid = os.fork()
    if pid:
        return pid
    os.setpgid(0, 0)
    control.connection.close()
    os.environ["DEEPSERVE_POD_ID"] = order.pod_id
    try:
        Pod(order).run()
    except EOFError:
        pass
    finally:
        os._exit(0)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--environment")
    parser.add_argument("--control-fd", type=int)
    arguments = parser.parse_args()
    control = Peer(socket.socket(fileno=arguments.control_fd))
    if arguments.environment == "broken":
        control.send(TemplateFailed("broken", "nothing works here"))
        sys.exit(1)
    control.send(TemplateReady(arguments.environment, os.getpid(), {"imports": 1.0}))
    control.connection.settimeout(0.01)
    pods: dict[int, str] = {}
    while True:
        try:
            order, _ = control.receive()
        except TimeoutError:
            order = None
        except EOFError:
            os._exit(0)
        if isinstance(order, ForkPod):
            pid = fork_pod(order, control)
            pods[pid] = order.pod_id
            control.send(PodForked(order.pod_id, pid, 0.5))
        while pods and (found := os.waitpid(-1, os.WNOHANG))[0]:
            if found[0] in pods:
                exit_code = os.waitstatus_to_exitcode(found[1])
                control.send(PodExited(pods.pop(found[0]), found[0], exit_code))


if __name__ == "__main__":
    main()
