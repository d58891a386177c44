"""Whole scripts: `__main__`, Ctrl-C, pending calls, and what is left when they end."""

from __future__ import annotations

import os
import signal
import time

import pytest

from tests.integration.functions.conftest import ScriptRunner, processes_with, wait_until

BOOM = """
import deepserve, subprocess, os, time

class Boom(Exception): pass

class Point:
    def __init__(self, x): self.x = x

@deepserve.function
def boom(): raise Boom("from the pod")

@deepserve.function
def move(point): return Point(point.x + 1)

@deepserve.function
def forks():
    subprocess.Popen(["sleep", "1000"])
    if os.fork() == 0:
        time.sleep(1000)
    return "forked"

if __name__ == "__main__":
    try:
        boom.remote()
    except Boom as error:
        print("caught", error)
    moved = move.remote(Point(1))
    print(type(moved) is Point, moved.x, forks.remote())
"""


def test_exceptions_and_classes_of_main_are_the_scripts_own(script: ScriptRunner) -> None:
    done = script.run(BOOM)
    assert done.stdout == "caught from the pod\nTrue 2 forked\n", done.stderr
    assert done.returncode == 0
    assert done.stderr == "deepserve: using an embedded controller, which ends with this process\n"


def test_an_unguarded_call_says_how_to_guard_it(script: ScriptRunner) -> None:
    done = script.run("import deepserve\n@deepserve.function\ndef f(): ...\nf.remote()\n")
    assert done.returncode == 1
    assert "UnguardedCallError" in done.stderr
    assert "guard it with `if __name__ == '__main__':`" in done.stderr


DEEP = """
import deepserve

@deepserve.function
def down(n): return down.remote(n - 1) if n else "bottom"

if __name__ == "__main__":
    print(down.remote(3))
    try:
        down.remote(4)
    except deepserve.RecursionTooDeep as error:
        print("at most 4 may be: app/down > app/down > " in str(error))
"""


def test_what_the_environment_tells_the_controller(script: ScriptRunner, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DEEPSERVE_MAX_DEPTH", "4")
    done = script.run(DEEP)
    assert done.stdout == "bottom\nTrue\n", done.stderr
    monkeypatch.setenv("DEEPSERVE_MAX_DEPTH", "deep")
    done = script.run(DEEP)
    assert done.returncode == 1 and "DEEPSERVE_MAX_DEPTH='deep' is no number" in done.stderr
    monkeypatch.delenv("DEEPSERVE_MAX_DEPTH")
    monkeypatch.setenv("DEEPSERVE_MODEL_POLICY", "none such")
    done = script.run(DEEP)
    assert done.returncode == 1 and "DEEPSERVE_MODEL_POLICY: there is no policy 'none such'" in done.stderr


PENDING = """
import deepserve, time

@deepserve.function
def slow(seconds): time.sleep(seconds)

if __name__ == "__main__":
    calls = [slow.spawn(100) for _ in range(3)]
    slow.remote(0)
    print("ready", flush=True)
    WAIT
"""


def test_pending_calls_are_cancelled_and_counted(script: ScriptRunner) -> None:
    done = script.run(PENDING.replace("WAIT", "pass"))
    assert done.returncode == 0
    assert "3 calls were still pending" in done.stderr


LAST_WORDS = """
import deepserve

@deepserve.cls
class Clerk:
    @deepserve.method()
    def work(self): return 1
    @deepserve.exit()
    def close(self): print("exit ran")

@deepserve.function
def count():
    try:
        yield from range(5)
    finally:
        print("closed")

if __name__ == "__main__":
    Clerk().work.remote()
    numbers = count.remote()
    next(numbers)
    numbers.close()
"""


def test_what_pods_print_at_their_end_is_shown(script: ScriptRunner) -> None:
    done = script.run(LAST_WORDS)
    assert done.returncode == 0 and "exit ran" in done.stderr, done
    assert "closed" in done.stdout + done.stderr


CALLS_IN_A_HANDLER = """
import signal
import deepserve

@deepserve.function(max_pods=2)
def echo(x, folder=""):
    import os, time
    while folder and not os.path.exists(folder):
        time.sleep(0.01)
    return x

if __name__ == "__main__":
    import os, tempfile, threading
    name = os.path.join(tempfile.mkdtemp(), "go")
    seen = []
    def handle(number, frame):
        seen.append(echo.remote(len(seen)))
        seen.append(echo.spawn(len(seen)).get(timeout=60))
        open(name, "w").close()
    signal.signal(signal.SIGALRM, handle)
    for _ in range(3):
        if os.path.exists(name):
            os.unlink(name)
        signal.setitimer(signal.ITIMER_REAL, 0.2)
        print(echo.remote("outer", name))
    print(seen)
"""


def test_a_signals_handler_may_call_while_the_script_waits_for_a_call(script: ScriptRunner) -> None:
    done = script.run(CALLS_IN_A_HANDLER)
    assert done.stdout == "outer\nouter\nouter\n[0, 1, 2, 3, 4, 5]\n", done


def test_ctrl_c_in_a_script(script: ScriptRunner) -> None:
    running = script.start(PENDING.replace("WAIT", "slow.remote(100)"))
    assert running.stdout is not None and running.stdout.readline() == "ready\n"
    time.sleep(0.2)
    running.send_signal(signal.SIGINT)
    _, err = running.communicate(timeout=60)
    assert running.returncode == -signal.SIGINT or running.returncode == 130
    assert err.rstrip().splitlines()[-1].startswith(("KeyboardInterrupt", "deepserve:"))
    assert "KeyboardInterrupt" in err


def test_a_killed_script_leaves_nothing(script: ScriptRunner) -> None:
    running = script.start(PENDING.replace("WAIT", "slow.remote(100)"))
    assert running.stdout is not None and running.stdout.readline() == "ready\n"
    assert len(processes_with(script.mark)) > 2
    running.kill()
    running.communicate(timeout=60)
    wait_until(lambda: processes_with(script.mark) == [])


FORKING = """
import deepserve, os

@deepserve.function
def square(x): return x * x

if __name__ == "__main__":
    print(square.remote(2), flush=True)
    child = os.fork()
    print("child" if child == 0 else "parent", square.remote(3), flush=True)
    if child:
        os.waitpid(child, 0)
        print(square.remote(4))
"""


def test_a_forked_child_starts_its_own_controller(script: ScriptRunner) -> None:
    done = script.run(FORKING)
    assert sorted(done.stdout.split("\n")) == sorted(["4", "child 9", "parent 9", "16", ""]), done.stderr
    assert done.stderr.count("using an embedded controller") == 2


INHERITING = """
import deepserve, os

@deepserve.function
def count(n):
    yield from range(n)

if __name__ == "__main__":
    items, call = count.remote(1000), count.spawn(1000)
    print(next(items), flush=True)
    if (child := os.fork()) == 0:
        for read in (items, call.stream()):
            try:
                print(len(list(read)))
            except deepserve.ControllerLost as error:
                print(error, flush=True)
        items.close()
        os._exit(0)
    os.waitpid(child, 0)
    print(len(list(items)), len(list(call.stream())))
"""


def test_a_forked_child_has_no_part_in_its_parents_calls(script: ScriptRunner) -> None:
    """It neither waits for what comes there nor ends it."""
    done = script.run(INHERITING)
    first, *told, last = done.stdout.splitlines()
    assert (first, last) == ("0", "999 1000"), done.stderr
    assert len(told) == 2 and all("of which this one is a fork" in line for line in told)


LEAVING_THREADS = """
import deepserve, threading

@deepserve.function
def wait():
    threading.Event().wait()

@deepserve.function
def items():
    yield 1
    threading.Event().wait()

def read():
    for item in items.remote():
        has_come.release()

if __name__ == "__main__":
    has_come = threading.Semaphore(0)
    for work in (wait.remote, read, read):
        threading.Thread(target=work, daemon=True).start()
    for _ in range(2):
        has_come.acquire()
"""


def test_daemon_threads_that_wait_end_with_the_script_in_silence(script: ScriptRunner) -> None:
    done = script.run(LEAVING_THREADS)
    assert done.returncode == 0
    assert "calls were still pending" in done.stderr and "Traceback" not in done.stderr, done.stderr


LOSING = """
import deepserve, gc, os, signal, threading, weakref
from deepserve import _current_client

@deepserve.function
def square(x): return x * x

def lose():
    square.remote(2)
    client = _current_client.current_client()
    [reader] = [thread for thread in threading.enumerate() if thread.name == "deepserve-link"]
    os.kill(int(os.path.basename(client.welcome.segments).split("-")[2]), signal.SIGKILL)
    reader.join(60)
    return weakref.ref(client)

if __name__ == "__main__":
    lost = [lose() for _ in range(3)]
    print(square.remote(3))
    gc.collect()
    print(sum(client() is not None for client in lost))
"""


def test_a_lost_controller_keeps_nothing_of_its_client(script: ScriptRunner) -> None:
    """Nor is anything left of it in shared memory when the script has ended, which the fixture looks at."""
    done = script.run(LOSING)
    assert done.stdout == "9\n0\n", done.stderr


def test_sibling_modules_come_along(script: ScriptRunner) -> None:
    script.write("import lazy_one\nVALUE = 40\n", "sibling.py")
    script.write("", "lazy_one.py")
    script.write("def two(): return 2\n", "lazy_two.py")
    done = script.run(
        "import deepserve, sibling\n"
        "@deepserve.function\n"
        "def f():\n"
        "    import lazy_two\n"
        "    return sibling.VALUE + lazy_two.two()\n"
        "g = deepserve.function(lambda: sibling.VALUE)\n"
        "if __name__ == '__main__':\n"
        "    print(f.remote(), g.remote())\n"
    )
    assert done.stdout == "42 40\n", done.stderr


def test_code_from_standard_input_travels_by_value(script: ScriptRunner) -> None:
    import subprocess
    import sys

    text = (
        "import deepserve\n"
        "class Point:\n"
        "    def __init__(self, x): self.x = x\n"
        "class Boom(Exception): pass\n"
        "@deepserve.function\n"
        "def move(p): return Point(p.x + 1)\n"
        "@deepserve.function\n"
        "def boom(): raise Boom(move.remote(Point(1)).x)\n"
        "print(type(move.remote(Point(1))) is Point)\n"
        "try: boom.remote()\n"
        "except Boom as error: print('caught', error)\n"
    )
    done = subprocess.run(
        [sys.executable, "-"],
        input=text,
        cwd=script.folder,
        env=script.environment,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.stdout == "True\ncaught 2\n", done.stderr


def test_a_first_call_tells_its_timeline(script: ScriptRunner, monkeypatch: object) -> None:
    os.environ["DEEPSERVE_TIMINGS"] = "1"
    try:
        done = script.run(
            "import deepserve\n@deepserve.function\ndef noop(): ...\nif __name__ == '__main__':\n    noop.remote()\n"
        )
    finally:
        del os.environ["DEEPSERVE_TIMINGS"]
    assert "controller process started" in done.stderr and "result" in done.stderr
    assert "fork" in done.stderr and "bind" in done.stderr
