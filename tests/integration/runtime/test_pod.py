"""A real template, real forked pods, and a stand-in for the controller: calls and what they must survive."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from deepserve._values import encode_value
from deepserve.errors import PythonVersionMismatch, RemoteError, UnguardedCallError, UnpicklableResult
from deepserve.protocol.messages import (
    BundleContent,
    CancelTask,
    ExecutorFailed,
    FetchBundle,
    StopPod,
    TaskFinished,
    TemplateFailed,
    Value,
)
from deepserve.protocol.specs import CodeRef
from tests.integration.runtime.stand_in import (
    TIMEOUT_S,
    Peer,
    StandIn,
    StandInPod,
    decode_exception,
    is_alive,
    ready,
)

FILES = {"app.py": Path(__file__).with_name("app.py").read_text()}


def test_a_call_returns_its_result(pod: StandInPod) -> None:
    pod.bind("square", files=FILES)
    assert [pod.call(n) for n in (3, 4)] == [9, 16]


def test_an_exception_arrives_and_the_pod_goes_on(pod: StandInPod) -> None:
    pod.bind("fail", files=FILES)
    for text in ("first", "second"):
        with pytest.raises(Exception, match=text):
            pod.call(text)


@pytest.mark.parametrize("name", ["SystemExit", "KeyboardInterrupt", "StopIteration"])
def test_exceptions_that_end_programs_are_only_errors(pod: StandInPod, name: str) -> None:
    pod.bind("raise_named", files=FILES)
    for _ in range(2):
        with pytest.raises(RemoteError, match=name):
            pod.call(name)


def test_a_result_that_cannot_be_pickled_is_named(pod: StandInPod) -> None:
    pod.bind("give_lock", files=FILES)
    with pytest.raises(UnpicklableResult, match="lock"):
        pod.call(1)


def test_a_pod_is_itself_and_holds_nothing_of_its_template(pod: StandInPod) -> None:
    pod.bind("environment", files=FILES)
    seen = pod.call()
    assert seen["pod_id"] == pod.pod_id and seen["group"]
    assert seen["stdin"] == "/dev/null"
    assert seen["main"] == ("__main__", "app", "app")
    assert len(seen["fds"]) <= 6, seen["fds"]  # 0, 1, 2, the link, the reader's poll, the listing itself


def test_pods_of_one_template_draw_different_numbers(controller: StandIn, template: Peer) -> None:
    pods = [controller.fork_pod(template) for _ in range(2)]
    for pod in pods:
        pod.bind("random_bits", files=FILES)
    assert pods[0].call() != pods[1].call()
    for pod in pods:
        pod.link.send(StopPod("idle"))
        pod.exited()


def test_a_stopped_pod_runs_its_exit_hooks_and_exits_with_zero(pod: StandInPod) -> None:
    value, params = encode_value({"start": 10})
    pod.bind("Counter", kind="class", files=FILES, params=params)
    assert pod.call(5, method="add") == 15
    assert pod.call(5, method="add_async") == 20
    assert pod.call(method="seen") == ["init", "enter", "enter async"]
    with pytest.raises(AttributeError, match="hidden"):
        pod.call(method="hidden")
    pod.link.send(StopPod("idle"))
    assert pod.exited().exit_code == 0
    assert pod.wait_for_output("stdout") == b"exit at 20\n"


# --- cancel ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("function", "started", "cleans_up"),
    [("sleep_long", "sleeping", True), ("spin", "spinning", False), ("sleep_async", "sleeping", True)],
)
@pytest.mark.parametrize("reason", ["cancelled", "timeout"])
def test_running_code_is_interrupted(
    pod: StandInPod, function: str, started: str, cleans_up: bool, reason: str
) -> None:
    pod.bind(function, files=FILES)
    task_id = pod.assign()
    pod.wait_for_text(started)
    pod.link.send(CancelTask(task_id, 1, reason))  # type: ignore[arg-type]
    assert pod.finished().outcome.kind == reason
    if cleans_up:
        pod.wait_for_text("cleaned up")


def test_the_pod_goes_on_after_a_cancel(pod: StandInPod) -> None:
    pod.bind("sleep_long", files=FILES)
    for turn in range(3):
        task_id = pod.assign(f"turn {turn}")
        pod.wait_for_text(f"turn {turn}")
        pod.link.send(CancelTask(task_id, 1, "cancelled"))
        assert pod.finished().task_id == task_id


def test_a_second_task_runs_beside_one_that_waits_and_both_can_be_cancelled(pod: StandInPod) -> None:
    pod.bind("spin", files=FILES, max_inputs=2)
    first, second = pod.assign(), pod.assign()
    pod.wait_for_text("spinning\nspinning\n")
    for task_id in (second, first):
        pod.link.send(CancelTask(task_id, 1, "cancelled"))
        assert pod.finished().task_id == task_id


@pytest.mark.parametrize("function", ["sleep_long", "sleep_async"])
def test_a_cancel_that_comes_with_its_task_is_not_lost(pod: StandInPod, function: str) -> None:
    pod.bind(function, files=FILES)
    for _ in range(20):
        task_id = pod.assign()
        pod.link.send(CancelTask(task_id, 1, "cancelled"))
        assert pod.finished().outcome.kind == "cancelled"


def test_a_cancel_of_another_attempt_is_not_ours(pod: StandInPod) -> None:
    pod.bind("square", files=FILES)
    pod.link.send(CancelTask("t-1", 1, "cancelled"))
    assert pod.call(3) == 9


# --- death -----------------------------------------------------------------------------------------


def test_os_exit_ends_the_pod_with_its_code(pod: StandInPod) -> None:
    pod.bind("leave", files=FILES)
    pod.assign(7)
    with pytest.raises(EOFError):
        pod.finished()
    assert pod.exited().exit_code == 7


def test_sigkill_is_reported_as_a_signal(pod: StandInPod) -> None:
    pod.bind("kill_me", files=FILES)
    pod.assign(1)
    assert pod.exited().exit_code == -signal.SIGKILL


def test_the_end_of_the_link_ends_the_pod_and_its_children(pod: StandInPod) -> None:
    pod.bind("fork_forever", files=FILES)
    child = pod.call(1)
    assert is_alive(child)
    pod.link.connection.close()
    assert pod.exited().exit_code == -signal.SIGKILL
    assert not is_alive(pod.pid)
    pod.wait_for_output("stdout")  # ends only when the child is gone too: it holds the pod's stdout


def test_a_childs_copy_does_not_hold_the_link_open(pod: StandInPod) -> None:
    pod.bind("fork_forever", files=FILES)
    pod.call(1)
    os.kill(pod.pid, signal.SIGKILL)
    with pytest.raises(EOFError):
        pod.finished()
    assert pod.exited().exit_code == -signal.SIGKILL


def test_the_end_of_the_control_descriptor_ends_template_and_pods(controller: StandIn) -> None:
    template = controller.start_template()
    process = controller.templates[-1][0]
    pods = [controller.fork_pod(template) for _ in range(2)]
    pods[0].bind("spin", files=FILES)
    pods[0].assign()
    pods[0].wait_for_text("spinning")
    template.connection.close()
    assert process.wait(TIMEOUT_S) == 0
    assert not any(is_alive(pod.pid) for pod in pods)


def test_more_memory_than_allowed_is_an_error_that_says_so(controller: StandIn, template: Peer) -> None:
    pod = controller.fork_pod(template, memory_mib=200)
    pod.bind("grow", files=FILES)
    pod.assign(10)
    with pytest.raises(MemoryError, match="limit is 200 MiB"):
        pod.result()
    assert pod.exited().exit_code == -signal.SIGKILL


def test_a_function_that_takes_more_memory_than_allowed_while_it_is_loaded(controller: StandIn, template: Peer) -> None:
    pod = controller.fork_pod(template, memory_mib=200)
    text = "import threading\nheld = b'x' * (300 << 20)\nthreading.Event().wait()\n"
    pod.ask_bind("f", files={"app.py": text})
    error = failed_bind(pod)
    assert isinstance(error, MemoryError) and "limit is 200 MiB" in str(error)
    assert pod.exited().exit_code == -signal.SIGKILL


# --- output, forks ---------------------------------------------------------------------------------


def test_megabytes_of_prints_arrive_whole(pod: StandInPod) -> None:
    pod.bind("print_much", files=FILES)
    assert pod.call(10_000_000) == "done"
    pod.link.send(StopPod("idle"))
    pod.exited()
    assert len(pod.wait_for_output("stdout")) == 10_000_000


@pytest.mark.parametrize("function", ["fork_and_return", "fork_and_return_async"])
def test_a_forked_child_does_not_answer_for_the_pod(pod: StandInPod, function: str) -> None:
    pod.bind(function, files=FILES)
    assert [pod.call(1), pod.call(1)] == [0, 0]


def test_a_forked_child_that_raises_only_ends_itself(pod: StandInPod) -> None:
    pod.bind("fork_and_raise", files=FILES)
    assert pod.call(1) == 1
    pod.link.send(StopPod("idle"))
    pod.exited()
    assert b"only in the child" in pod.wait_for_output("stderr")


# --- code ------------------------------------------------------------------------------------------


def failed_bind(pod: StandInPod) -> BaseException:
    failed, payload = pod.link.receive(ExecutorFailed)
    return decode_exception(failed.value, payload)


def test_another_pythons_pickle_is_refused_unread(pod: StandInPod) -> None:
    code = CodeRef("pickle", "__main__", "square", "0" * 64, python="3.9")
    pod.ask_bind("square", code=code)
    assert isinstance(failed_bind(pod), PythonVersionMismatch)
    assert not any(isinstance(frame.message, FetchBundle) for frame in pod.link.kept)


def test_arguments_of_another_python_are_refused_unread(pod: StandInPod) -> None:
    pod.bind("square", files=FILES)
    pod.assign_value(Value("pickle", 3, "3.9"), b"!!!")
    finished, payload = pod.link.receive(TaskFinished)
    assert finished.outcome.kind == "refused"
    assert isinstance(decode_exception(finished.value, payload), PythonVersionMismatch)


def test_an_import_that_raises_fails_the_bind(pod: StandInPod) -> None:
    pod.ask_bind("f", files={"app.py": "import no_such_module"})
    assert isinstance(failed_bind(pod), ModuleNotFoundError)


def test_an_unguarded_remote_call_is_named(pod: StandInPod) -> None:
    text = "from deepserve._current_client import current_client\ndef f(): pass\ncurrent_client()\n"
    pod.ask_bind("f", files={"app.py": text})
    error = failed_bind(pod)
    assert isinstance(error, UnguardedCallError) and "app" in str(error)


def test_a_missing_bundle_fails_the_bind(pod: StandInPod) -> None:
    pod.ask_bind("f", code=CodeRef("bundle", "app", "f", "1" * 64))
    fetch, _ = pod.link.receive(FetchBundle)
    pod.link.send(BundleContent(fetch.digest, "files", missing=True))
    assert "no bundle" in str(failed_bind(pod))


def test_a_task_that_comes_before_the_bind_is_refused(pod: StandInPod) -> None:
    pod.assign(1)
    assert pod.finished().outcome.kind == "refused"


# --- templates -------------------------------------------------------------------------------------


def test_a_template_that_is_killed_takes_its_pods_along(controller: StandIn) -> None:
    template = controller.start_template()
    pod = controller.fork_pod(template)
    pod.bind("spin", files=FILES)
    pod.assign()
    pod.wait_for_text("spinning")
    controller.templates[-1][0].kill()
    with pytest.raises(EOFError):
        pod.finished()


def test_an_environment_that_cannot_be_loaded_says_why(controller: StandIn) -> None:
    failed, _ = controller.start_template("no-such").receive(TemplateFailed)
    assert "no-such" in failed.text
    assert controller.templates[-1][0].wait(TIMEOUT_S) == 1


def test_a_fork_takes_milliseconds(controller: StandIn, template: Peer) -> None:
    pods = [controller.fork_pod(template) for _ in range(5)]
    # About one on an idle machine; the bound only catches a copy of the world, and the best is no matter of luck.
    assert 0.0 < min(pod.fork_ms for pod in pods) < 250.0
    for pod in pods:
        pod.link.connection.close()
        pod.exited()


def test_the_timeline_is_the_scripts_alone(controller: StandIn, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DEEPSERVE_TIMINGS", "1")
    template = controller.start_template()
    ready(template)
    pod = controller.fork_pod(template)
    code = "import os\nfrom deepserve import _timeline\n"
    code += "def wants_it(): return 'DEEPSERVE_TIMINGS' in os.environ, _timeline.is_wanted()\n"
    pod.bind("wants_it", files={"app.py": code})
    assert pod.call() == (True, False)
