"""A warm call: two hops each way, and nothing else. Counted by the kernel, in every process on the path."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

CALLS = 200

SCRIPT = '''
import json, os, sys, time
import deepserve
from deepserve._current_client import current_client

@deepserve.function(max_pods=1)
def square(x):
    return x * x

@deepserve.function(max_pods=1)
def identity():
    return os.getpid()

def family():
    """This process, the controller, the template and the pods."""
    found, pending = [], [os.getpid()]
    while pending:
        pid = pending.pop()
        found.append(pid)
        for thread in os.listdir(f"/proc/{pid}/task"):
            pending += map(int, open(f"/proc/{pid}/task/{thread}/children").read().split())
    return found

def counters(pid):
    io = dict(line.split(": ") for line in open(f"/proc/{pid}/io").read().splitlines())
    switches = 0
    for thread in os.listdir(f"/proc/{pid}/task"):
        status = open(f"/proc/{pid}/task/{thread}/status").read()
        switches += int(status.partition("\\nvoluntary_ctxt_switches:")[2].split()[0])
    return {"wakes": switches, **{key: int(io[key]) for key in ("syscr", "syscw", "write_bytes")}}

def command(pid):
    return open(f"/proc/{pid}/cmdline").read().replace("\\0", " ")

def around(work):
    pids = family()
    before = {pid: counters(pid) for pid in pids}
    work()
    return [
        {"pid": pid, "command": command(pid), **{k: v - before[pid][k] for k, v in counters(pid).items()}}
        for pid in pids if os.path.exists(f"/proc/{pid}")
    ]

def wakes_by_itself():
    pods = current_client().query("status")["pods"]
    if any(pod["state"] not in ("warm", "bound") for pod in pods):
        time.sleep(0.1)
        return True
    idle = around(lambda: time.sleep(0.3))
    return any(process["wakes"] for process in idle if process["pid"] != os.getpid())

if __name__ == "__main__":
    for i in range(50):
        square.remote(i)
    looks = 0
    while wakes_by_itself() and looks < 60:  # let the spare pod finish its start
        looks += 1
    calls = around(lambda: [square.remote(i) for i in range(int(sys.argv[1]))])
    idle = around(lambda: time.sleep(1.5))
    modules = sorted(name for name in sys.modules if name.split(".")[0] in ("http", "httpx2", "urllib3", "requests"))
    print(json.dumps({"me": os.getpid(), "calls": calls, "idle": idle, "modules": modules}))
'''


def measured(tmp_path: Path) -> dict[str, object]:
    script = tmp_path / "warm.py"
    script.write_text(SCRIPT)
    environment = {**os.environ, "DEEPSERVE_QUIET": "1", "XDG_RUNTIME_DIR": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, str(script), str(CALLS)], capture_output=True, text=True, timeout=120, env=environment
    )
    assert done.returncode == 0, done.stderr
    return dict(json.loads(done.stdout))


def test_a_warm_call_writes_frames_and_nothing_else(tmp_path: Path) -> None:
    report = measured(tmp_path)
    calls, idle = report["calls"], report["idle"]
    assert isinstance(calls, list) and isinstance(idle, list)
    assert len(calls) >= 4, "script, controller, template, pod"
    assert report["modules"] == [], "no HTTP on the path"
    for process in calls:
        assert process["write_bytes"] == 0, f"written to disk: {process}"
        # Frames leave by send, which is not counted here: a log line, a file or a wake-up pipe per call would show.
        assert process["syscw"] <= CALLS // 10, process
        # Script and pod wake for the frame and hand it between two threads; the controller wakes per frame.
        assert process["wakes"] <= 5 * CALLS, process
    for process in idle:
        if process["pid"] != report["me"]:
            assert process["wakes"] <= 2, f"wakes up without work: {process}"
