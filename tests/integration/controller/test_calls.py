"""Requests from a client to a pod and back, through the real cores, and what is left after each way to end."""

from __future__ import annotations

import contextlib
import os
import pickle
import signal
import time
from pathlib import Path

from deepserve.protocol.messages import (
    AttachRequest,
    CancelRequest,
    ForgetRequest,
    GrantCredit,
    ItemFinished,
    LogOutput,
    MapEnd,
    MapInput,
    OpenRequest,
    PutBundle,
    Refused,
    RequestFinished,
    StreamItems,
    Value,
    Welcome,
)
from deepserve.protocol.specs import Scaling
from tests.integration.controller.peers import Client, Controller, is_alive
from tests.stream_items import all_items
from tests.waiting import TIMEOUT_S, wait_for


def test_a_call_comes_back_as_it_went(shared: Controller) -> None:
    owner = shared.owner
    owner.open("rq-echo", owner.define(), payload=b"\x00\xff" * 10)
    finished, payload = owner.finished("rq-echo")
    assert finished.outcome.is_ok and payload == b"\x00\xff" * 10
    assert finished.timings.pod_id.startswith("pod-") and finished.timings.total_ms > 0


def test_a_large_payload_passes_unchanged(shared: Controller) -> None:
    owner = shared.owner
    payload = os.urandom(3 << 20)
    owner.open("rq-large", owner.define(), payload=payload)
    assert owner.finished("rq-large")[1] == payload


def test_an_unknown_function_is_refused(shared: Controller) -> None:
    shared.owner.open("rq-unknown", "fn-nobody")
    assert shared.owner.finished("rq-unknown")[0].outcome.kind == "refused"


def test_a_request_id_serves_once(shared: Controller) -> None:
    owner = shared.owner
    function = owner.define("hanging")
    owner.open("rq-twice", function, "hang")
    owner.open("rq-twice", function)
    assert owner.finished("rq-twice")[0].outcome.kind == "refused"
    owner.send(CancelRequest("rq-twice", force=True))
    assert owner.finished("rq-twice")[0].outcome.kind == "cancelled"


def test_a_pod_that_exits_or_is_killed_is_told_apart(shared: Controller) -> None:
    owner = shared.owner
    function = owner.define("mortal")
    for method, word in (("exit", "3"), ("kill", "SIGKILL")):
        owner.open(f"rq-{method}", function, method)
        outcome = owner.finished(f"rq-{method}")[0].outcome
        assert outcome.kind == "pod_lost" and word in outcome.detail, outcome
    owner.open("rq-after", function, payload=b"x")
    assert owner.finished("rq-after")[1] == b"x"


def test_what_a_killed_pod_started_dies_too(shared: Controller) -> None:
    owner = shared.owner
    function = owner.define("daemons")
    owner.open("rq-daemon", function, "daemon")
    pid = int(owner.finished("rq-daemon")[1])
    assert is_alive(pid)
    owner.open("rq-daemon-end", function, "kill")
    assert owner.finished("rq-daemon-end")[0].outcome.kind == "pod_lost"
    wait_for(lambda: not is_alive(pid))


def test_a_call_inside_a_pod_is_a_child_of_its_caller(shared: Controller) -> None:
    owner = shared.owner
    inner = owner.define("inner")
    owner.open("rq-outer", owner.define("outer"), "call", inner.encode())
    assert owner.finished("rq-outer")[1] == b"ok:from inside"
    requests = {record["request_id"]: record for record in owner.query("requests").body["requests"]}
    assert requests["rq-outer.1"]["parent_task_id"] == requests["rq-outer"]["task_id"]


def test_a_stream_waits_for_credit(shared: Controller) -> None:
    owner = shared.owner
    owner.open("rq-stream", owner.define("streaming"), "stream", b"40", kind="stream")
    for offset in range(40):
        item, payload = owner.expect(StreamItems)
        assert (item.offset, payload) == (offset, b"%d" % offset)
        owner.send(GrantCredit("rq-stream", 1))
    finished, _ = owner.finished("rq-stream")
    assert finished.outcome.is_ok and finished.count == 40


def test_a_map_gives_each_input_back(shared: Controller) -> None:
    owner = shared.owner
    owner.open("rq-map", owner.define("mapped"), kind="map")
    for index in range(5):
        owner.send(MapInput("rq-map", index, Value("msgpack", 1)), b"%d" % index)
    owner.send(MapEnd("rq-map", 5))
    items = [owner.expect(ItemFinished) for _ in range(5)]
    assert {item.index: payload for item, payload in items} == {index: b"%d" % index for index in range(5)}
    assert owner.finished("rq-map")[0].count == 5


def test_output_reaches_the_script_in_whole_lines(shared: Controller) -> None:
    owner = shared.owner
    owner.open("rq-print", owner.define("talking"), "print", b"one\ntwo\nhalf")
    seen = b""
    while seen != b"one\ntwo\nhalf":
        message, payload = owner.expect(LogOutput, lambda message: message.label == "app/talking")
        assert message.stream == "stdout"
        seen += payload
    assert owner.query("logs", target="app/talking", tail=2).body["text"] == "two\nhalf"
    assert owner.query("logs", target="app/nobody").error == "not_found"


def test_a_bundle_is_fetched_by_the_pod(shared: Controller) -> None:
    owner = shared.owner
    owner.send(PutBundle("d" * 40, "files"), b"the code")
    owner.open("rq-bundle", owner.define("bundled", digest="d" * 40))
    assert owner.finished("rq-bundle")[0].outcome.is_ok
    wait_for(lambda: "bundle the code" in owner.query("logs", target="app/bundled").body["text"])


def test_a_kept_result_can_be_fetched_until_it_is_forgotten(shared: Controller) -> None:
    owner = shared.owner
    other = Client.dial(shared.socket).hello()
    other.open("rq-kept", owner.define(), payload=b"kept", keep=True)
    other.finished("rq-kept")
    other.close()
    for _ in range(2):
        owner.send(AttachRequest("rq-kept"))
        assert owner.finished("rq-kept")[1] == b"kept"
    assert owner.query("result_info", request_id="rq-kept").body["is_kept"]
    owner.send(ForgetRequest("rq-kept"))
    owner.send(AttachRequest("rq-kept"))
    outcome = owner.finished("rq-kept")[0].outcome
    assert (outcome.kind, outcome.code) == ("refused", "unknown") and "kept no longer" in outcome.detail


def test_a_client_that_leaves_cancels_what_is_not_kept(shared: Controller) -> None:
    owner = shared.owner
    function = owner.define("left behind", scaling=Scaling(max_pods=2))
    other = Client.dial(shared.socket).hello()
    other.expect(Welcome)
    other.open("rq-left", function, "hang")
    other.open("rq-stays", function, "sleep", b"0.3", keep=True)
    wait_for(lambda: owner.query("result_info", request_id="rq-stays").body.get("state") in ("running", "ok"))
    other.close()
    wait_for(lambda: owner.query("result_info", request_id="rq-left").body["state"] == "cancelled")
    owner.send(AttachRequest("rq-stays"))
    assert owner.finished("rq-stays")[0].outcome.is_ok


def test_a_result_that_comes_after_its_call_was_cancelled_is_not_left(shared: Controller) -> None:
    owner, segment = shared.owner, Path(shared.welcome.segments) / "v-1-late"
    segment.write_bytes(b"large")
    owner.open("rq-late", owner.define("late"), "late segment", segment.name.encode())
    wait_for(lambda: owner.query("result_info", request_id="rq-late").body.get("state") == "running")
    owner.send(CancelRequest("rq-late"))
    assert owner.finished("rq-late")[0].outcome.kind == "cancelled"
    wait_for(lambda: not segment.exists())


def test_a_kept_stream_is_read_later_by_another(shared: Controller) -> None:
    owner = shared.owner
    other = Client.dial(shared.socket).hello()
    other.open("rq-later", owner.define("streaming"), "stream", b"5", kind="stream", keep=True)
    other.finished("rq-later")
    other.close()
    owner.send(AttachRequest("rq-later", from_offset=2))
    finished, _ = owner.finished("rq-later")
    offsets = [offset for offset, _, _ in all_items(owner.waiting)]
    owner.waiting.clear()
    assert offsets == [2, 3, 4] and finished.count == 5


def test_segments_go_when_they_are_not_needed(shared: Controller) -> None:
    owner = shared.owner
    folder = Path(shared.welcome.segments)
    (folder / "v-1-arg").write_bytes(b"x" * 100)
    value = Value("msgpack", 100, segment="v-1-arg")
    outside = shared.folder / "precious"
    outside.write_text("stays")
    owner.send(OpenRequest("rq-seg", owner.define(), value=value))
    finished, _ = owner.finished("rq-seg")
    assert finished.value.segment == "v-1-arg"  # the fake pod hands its argument back
    wait_for(lambda: not (folder / "v-1-arg").exists())
    owner.send(OpenRequest("rq-seg2", owner.define(), value=Value("msgpack", 1, segment="../../" + str(outside))))
    owner.finished("rq-seg2")
    assert outside.exists()


def test_a_broken_template_fails_the_start_in_words(shared: Controller) -> None:
    owner = shared.owner
    owner.open("rq-broken", owner.define("broken", environment="broken", startup_timeout_s=60.0))
    finished, _ = owner.finished("rq-broken")
    assert finished.outcome.kind == "startup_failed"
    assert "nothing works here" in finished.outcome.detail


def test_a_dead_template_is_started_again(folder: Path) -> None:
    controller = Controller(folder)
    try:
        owner = controller.owner
        function = owner.define()
        owner.open("rq-1", function, payload=b"1")
        owner.finished("rq-1")
        template = child_pids(controller.process.pid)[0]
        os.kill(template, signal.SIGKILL)
        owner.open("rq-2", function, "exit")  # whether or not the pod outlived its template
        assert owner.finished("rq-2")[0].outcome.kind == "pod_lost"
        owner.open("rq-3", function, payload=b"3")
        assert owner.finished("rq-3")[1] == b"3"
        assert controller.stop() == 0
    finally:
        controller.kill()


def test_nothing_is_left_when_the_script_ends(folder: Path) -> None:
    controller = Controller(folder)
    try:
        owner = controller.owner
        owner.open("rq-1", owner.define("a"), "daemon")
        daemon = int(owner.finished("rq-1")[1])
        owner.open("rq-2", owner.define("b"), "hang")
        wait_for(lambda: owner.query("result_info", request_id="rq-2").body["state"] == "running")
        pids = [pod["pid"] for pod in owner.query("status").body["pods"]] + child_pids(controller.process.pid)
        assert controller.stop() == 0, controller.said()
        assert not any(is_alive(pid) for pid in [daemon, *pids])
        assert list(controller.runtime.iterdir()) == []
        assert not Path(controller.welcome.segments).exists()
        assert controller.said() == ""
    finally:
        controller.kill()


def test_a_signal_ends_it_in_order(folder: Path) -> None:
    controller = Controller(folder)
    try:
        controller.process.send_signal(signal.SIGTERM)
        assert controller.process.wait(TIMEOUT_S) == 0
        assert list(controller.runtime.iterdir()) == []
    finally:
        controller.kill()


def child_pids(parent: int) -> list[int]:
    found = []
    for name in os.listdir("/proc"):
        if name.isdecimal():
            try:
                fields = Path(f"/proc/{name}/stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            if int(fields[1]) == parent:
                found.append(int(name))
    return found


def test_slow_readers_do_not_stop_others(shared: Controller) -> None:
    """A client that reads nothing while its result is larger than any socket buffer."""
    owner = shared.owner
    function = owner.define("slow", scaling=Scaling(max_pods=2))
    slow = Client.dial(shared.socket).hello()
    slow.expect(Welcome)
    slow.open("rq-slow", function, payload=os.urandom(8 << 20))
    owner.open("rq-fast", function, payload=b"fast")
    assert owner.finished("rq-fast")[1] == b"fast"
    finished, payload = slow.expect(RequestFinished)
    assert finished.outcome.is_ok and len(payload) == 8 << 20
    slow.close()


def test_a_warm_call_touches_no_file_and_an_idle_controller_sleeps(shared: Controller) -> None:
    """The kernel's counters: read and write (not the sockets' receive and send), and voluntary waits."""
    owner, pid = shared.owner, shared.process.pid
    function = owner.define("warm")

    def call(number: int) -> None:
        owner.open(f"rq-warm-{number}", function, payload=b"x")
        owner.finished(f"rq-warm-{number}")

    def wakes_in(seconds: float) -> int:
        before = counters(pid, "status")["voluntary_ctxt_switches"]
        time.sleep(seconds)
        return counters(pid, "status")["voluntary_ctxt_switches"] - before

    def pods_are_up() -> bool:
        return {pod["state"] for pod in owner.query("status").body["pods"]} <= {"warm", "bound"}

    call(-1)
    wait_for(lambda: pods_are_up() and wakes_in(0.3) <= 2)  # another warm pod starts for the one that was taken
    before, waits = counters(pid, "io"), counters(pid, "status")
    for number in range(100):
        call(number)
    after = counters(pid, "io")
    assert [after[name] - before[name] for name in ("syscr", "syscw", "write_bytes")] == [0, 0, 0]
    used = counters(pid, "status")["voluntary_ctxt_switches"] - waits["voluntary_ctxt_switches"]
    assert used <= 220  # two for a call: nothing is handed over or looked at again
    assert wakes_in(0.3) <= 2


def counters(pid: int, name: str) -> dict[str, int]:
    found = {}
    for line in Path(f"/proc/{pid}/{name}").read_text().splitlines():
        key, _, value = line.partition(":")
        if value.strip().isdecimal():
            found[key] = int(value)
    return found


def test_calls_work_where_unpickling_is_impossible(shared: Controller) -> None:
    """`start.py` ends the controller at the first use of pickle; a pickle passes through unseen."""
    owner = shared.owner
    owner.open("rq-pickle", owner.define(), payload=pickle.dumps({"x": 1}), value=Value("pickle", 20))
    assert pickle.loads(owner.finished("rq-pickle")[1]) == {"x": 1}
    assert shared.process.poll() is None and "UNPICKLED" not in shared.said()


def test_a_pod_that_ends_holds_no_function_any_more(shared: Controller) -> None:
    owner = shared.owner

    def num_pods() -> int:
        return sum(pod["function_id"] == "fn-child" for pod in owner.query("status").body["pods"])

    function = owner.define("definer")
    owner.open("rq-define", function, "define")
    assert owner.finished("rq-define")[0].outcome.is_ok
    wait_for(lambda: num_pods() == 1)
    owner.open("rq-definer-dies", function, "exit")
    assert owner.finished("rq-definer-dies")[0].outcome.kind == "pod_lost"
    wait_for(lambda: num_pods() == 0)


def test_an_outcome_whose_header_is_too_large_is_refused_in_words(shared: Controller) -> None:
    owner = shared.owner
    function = owner.define()
    owner.open("rq-wordy", function, "wordy")
    outcome = owner.finished("rq-wordy")[0].outcome
    assert outcome.kind == "refused" and "cannot be sent: RequestFinished header of" in outcome.detail
    owner.open("rq-after-wordy", function, payload=b"1")
    assert owner.finished("rq-after-wordy")[1] == b"1"


def test_names_are_bounded(shared: Controller) -> None:
    client = Client.dial(shared.socket)
    client.hello().expect(Welcome)
    client.open("rq-" + "x" * 2000, "fn")
    refused, _ = client.expect(Refused)
    assert refused.code == "garbage" and "1000 characters" in refused.text
    client.close()


def test_a_result_that_its_reader_left_unread_is_removed(shared: Controller) -> None:
    segment = Path(shared.welcome.segments) / "v-1-unread"
    segment.write_bytes(b"large")
    client = Client.dial(shared.socket)
    client.hello().expect(Welcome)
    client.open("rq-unread", client.define(), "segment", payload=segment.name.encode())
    assert client.finished("rq-unread")[0].value.segment == segment.name and segment.exists()
    client.close()
    wait_for(lambda: not segment.exists())


def test_status_tells_the_reasons_of_decisions(shared: Controller) -> None:
    owner = shared.owner
    owner.open("rq-why", owner.define("reasoned"))
    pod_id = owner.finished("rq-why")[0].timings.pod_id
    status = owner.query("status").body
    [function] = [found for found in status["functions"] if found["label"] == "app/reasoned"]
    assert function["pods"] == 1 and "running tasks / 1 slots" in function["reason"]
    [pod] = [found for found in status["pods"] if found["pod_id"] == pod_id]
    assert "1 queued" in pod["reason"]


def test_a_template_holds_none_of_the_controllers_connections(shared: Controller) -> None:
    controller = shared.process.pid
    [template] = Path(f"/proc/{controller}/task/{controller}/children").read_text().split()[:1]
    assert sockets(int(template)) and not sockets(int(template)) & sockets(controller)


def sockets(pid: int) -> set[str]:
    found = set()
    for path in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # closed meanwhile
            found.add(os.readlink(path))
    return {name for name in found if name.startswith("socket:")}
