"""The kill loop: controllers, pods and templates killed at random under load, and what must hold all the same.

python -m tests.kill_loop --kills 500 --seed 1 [--mode all|embedded|up|web]

Worlds follow each other: a client process under load (tests/killing/load.py) with an embedded controller, or with one
of `deepserve up` over its socket or (`web`) over the WebSocket of its HTTP port. In each, processes are killed until
its share is reached; then it ends in one of three ways: told to, its client killed, or its controller killed last.
What must hold: every call ends exactly once for its caller, with its value or an error that names the cause; every
run of an input is counted; nothing is left at the end: no process, socket, shared memory or half-written file. The
exit code is 1 where something did not.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import signal
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Callable
from pathlib import Path

from tests.killing.processes import LOAD_MODULE, MARK, Process, free_port, is_answering, processes
from tests.killing.tally import Tally, report

ROOT = Path(__file__).parents[1]
END_S = 90.0
"""For a client to end its last calls and report."""
GONE_S = 20.0
"""For what is left of a world to go away."""


class World:
    """A client under load and its controller, in folders of their own."""

    def __init__(self, number: int, mode: str, seed: int, tally: Tally) -> None:
        self.name = f"world {number} ({mode}, seed {seed})"
        self.mode = mode
        self.seed = seed
        self.tally = tally
        self.chance = random.Random(f"{seed}-world")
        self.mark = uuid.uuid4().hex
        self.late: list[threading.Timer] = []
        self.up: subprocess.Popen[str] | None = None
        self.http_port = free_port() if mode == "web" else 0
        self.is_controller_wanted = True
        self.is_somebody_else_to_tidy_up = False
        """Folders of a controller that was killed are removed by its client where it was embedded, else by the next
        controller that starts."""

    # --- its life ---

    def run(self, num_kills: int) -> None:
        self.tally.worlds[self.mode] += 1
        with tempfile.TemporaryDirectory(prefix="ds-kill-") as name:
            self.folder = Path(name)
            shared_before = set(os.listdir("/dev/shm"))
            if self.mode != "embedded":
                self.start_up()
            self.client = self.start_client()
            try:
                self.wait(lambda: any(process.role == "pod" for process in processes(self.mark)), 30.0)
                for _ in range(num_kills):
                    self.let_work(self.chance.choice([0, 5, 20, 60]))
                    self.kill_one()
                self.end()
            finally:
                self.close(shared_before)

    @property
    def environment(self) -> dict[str, str]:
        return {
            **os.environ,
            MARK: self.mark,
            "DEEPSERVE_URL": f"http://127.0.0.1:{self.http_port}" if self.mode == "web" else self.mode,
            "DEEPSERVE_KEY": key.read_text().strip() if (key := self.folder / "state/deepserve/key").exists() else "",
            "DEEPSERVE_QUIET": "1",
            "XDG_RUNTIME_DIR": str(self.folder / "run"),
            "XDG_STATE_HOME": str(self.folder / "state"),
            "KILL_LOAD_RUNS": str(self.folder / "runs"),
        }

    def start_client(self) -> subprocess.Popen[str]:
        errors = open(self.folder / "client.err", "a")
        with errors:
            return subprocess.Popen(
                [sys.executable, "-m", LOAD_MODULE, str(self.seed)], cwd=ROOT,
                env=self.environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, text=True,
            )  # fmt: skip

    def start_up(self) -> None:
        (self.folder / "run").mkdir(exist_ok=True)
        with open(self.folder / "up.err", "a") as errors:
            self.up = subprocess.Popen(
                [sys.executable, "-m", "deepserve_controller", "--up", "--http-port", str(self.http_port)],
                env=self.environment, stdin=subprocess.DEVNULL, stdout=errors, stderr=errors, text=True,
            )  # fmt: skip
        self.wait(lambda: is_answering(self.folder / "run/deepserve/up.sock"), 30.0)

    def let_work(self, num_runs: int) -> None:
        """Until so many more inputs have begun to run, or a while: a busy host gets fewer kills a second."""
        runs = self.folder / "runs"
        count = (lambda: runs.read_bytes().count(b"\n")) if runs.exists() else (lambda: 0)
        wanted = count() + num_runs
        time.sleep(0.02)
        with contextlib.suppress(TimeoutError):
            self.wait(lambda: count() >= wanted, 3.0)

    # --- kills ---

    def kill_one(self) -> None:
        [(role, how)] = self.chance.choices(
            [
                ("pod", "killed"),
                ("pod", "stopped, then killed"),
                ("pod", "stopped"),
                ("template", "killed"),
                ("template", "stopped, then killed"),
                ("template", "stopped"),
                ("function's template", "killed"),
                ("function's template", "stopped, then killed"),
                ("controller", "killed"),
                ("controller", "stopped, then killed"),
            ],
            [60, 14, 4, 4, 2, 1, 5, 2, 6, 2],
        )
        found = [process for process in processes(self.mark) if process.role == role]
        if not found:
            found = [process for process in processes(self.mark) if process.role == "pod"]
            role, how = "pod", "killed"
        if found:
            self.kill(self.chance.choice(found), role, how)

    def kill(self, process: Process, role: str, how: str) -> None:
        number = signal.SIGKILL if how == "killed" else signal.SIGSTOP
        if not process.send(number):
            return
        self.tally.killed[f"{role}s {how}"] += 1
        if how == "stopped, then killed":
            delay_s = self.chance.choice([0.05, 0.3, 1.0])
            if role == "controller":  # nothing else happens meanwhile, so the up one is started again in its turn
                time.sleep(delay_s)
                process.send(signal.SIGKILL)
            else:
                timer = threading.Timer(delay_s, process.send, [signal.SIGKILL])
                timer.start()
                self.late.append(timer)
        if role == "controller" and self.up is not None:
            self.up.wait(10.0)
            if self.is_controller_wanted:
                self.start_up()

    # --- the end ---

    def end(self) -> None:
        [how] = self.chance.choices(["told to", "client killed", "controller killed last"], [60, 15, 25])
        self.tally.endings[how] += 1
        self.is_somebody_else_to_tidy_up = how == "client killed" or (how != "told to" and self.mode != "embedded")
        if how == "client killed":
            self.tally.killed["clients killed"] += 1
            self.client.kill()
            self.client.wait(10.0)
            return
        if how == "controller killed last":
            self.is_controller_wanted = False
            for process in processes(self.mark):
                if process.role == "controller":
                    self.kill(process, "controller", "killed")
        try:
            out, _ = self.client.communicate("end\n", timeout=END_S)
            self.tally.add(json.loads(out.splitlines()[-1]), self.name)
        except (subprocess.TimeoutExpired, IndexError, ValueError) as error:
            self.violate(f"the client gave no report ({type(error).__name__}); {self.tail('client.err')}")
            self.client.kill()

    def close(self, shared_before: set[str]) -> None:
        for timer in self.late:
            timer.join()
        if self.client.poll() is None:
            self.client.kill()
        self.client.communicate()
        if self.is_somebody_else_to_tidy_up and (self.up is None or self.up.poll() is not None):
            self.start_up()
        if self.up is not None:
            self.up.terminate()
            try:
                self.up.wait(GONE_S)
            except subprocess.TimeoutExpired:
                self.violate(f"the controller does not end; {self.tail('up.err')}")
        self.check_nothing_left(shared_before)
        for process in processes(self.mark):
            process.send(signal.SIGKILL)

    def check_nothing_left(self, shared_before: set[str]) -> None:
        checks: dict[str, Callable[[], list[str]]] = {
            "processes": lambda: [f"{process.role} {process.pid}" for process in processes(self.mark)],
            "sockets and folders": lambda: [
                str(path.relative_to(self.folder))
                for path in (self.folder / "run").rglob("*")
                if path.name not in ("deepserve", "lock")
            ],
            "shared memory": lambda: [
                name for name in os.listdir("/dev/shm") if name not in shared_before and self.is_ours(name)
            ],
            "half-written files": self.half_written,
        }
        for what, left in checks.items():
            try:
                self.wait(lambda left=left: not left(), GONE_S)  # type: ignore[misc]
            except TimeoutError:
                self.violate(f"{what} left: {left()}")
        for name in ("client.err", "up.err"):
            if "Thread 0x" in self.tail(name, 1 << 20):
                self.violate(f"where the threads of a hung client are: {self.tail(name, 16000)}")
            if "Traceback" in (text := self.tail(name, 1 << 20)) or "deepserve: " in text:
                self.violate(f"{name} complains: {text[-1500:]}")

    def is_ours(self, name: str) -> bool:
        """Of a controller that is dead: those of other living controllers on this host do not count."""
        return name.startswith("deepserve-") and not os.path.exists(f"/proc/{name.split('-')[2]}")

    def half_written(self) -> list[str]:
        found = []
        for path in (self.folder / "state").rglob("*"):
            if path.name.endswith((".tmp", ".part", "-journal")):
                found.append(path.name)
            elif path.suffix in (".db", ".sqlite"):
                with contextlib.closing(sqlite3.connect(path)) as database:
                    if database.execute("PRAGMA integrity_check").fetchone() != ("ok",):
                        found.append(f"{path.name} is not whole")
        return found

    def violate(self, text: str) -> None:
        self.tally.violations.append(f"{self.name}: {text}")

    def tail(self, name: str, num_chars: int = 1500) -> str:
        path = self.folder / name
        return path.read_text(errors="replace")[-num_chars:] if path.exists() else ""

    @staticmethod
    def wait(condition: Callable[[], bool], timeout_s: float) -> None:
        ends_at_s = time.monotonic() + timeout_s
        while not condition():
            if time.monotonic() > ends_at_s:
                raise TimeoutError
            time.sleep(0.02)


# --- the loop ---------------------------------------------------------------------------------------


def run_worlds(num_kills: int, seed: int, mode: str, say: Callable[[str], None] = lambda text: None) -> Tally:
    """Worlds of up to 20 kills, until `num_kills` are reached. Deterministic in its choices, not in its timing."""
    chance, tally, number = random.Random(seed), Tally(), 0
    while tally.num_kills < num_kills:
        number += 1
        chosen = mode if mode != "all" else chance.choice(["embedded", "embedded", "up", "web"])
        share = min(chance.randint(5, 20), num_kills - tally.num_kills)
        world = World(number, chosen, chance.randrange(1 << 30), tally)
        before = len(tally.violations)
        world.run(share)
        say(f"{world.name}: {tally.num_kills} kills so far, {sum(tally.begun.values())} calls")
        for text in tally.violations[before:]:
            say(f"  VIOLATION {text}")
    return tally


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--kills", type=int, default=500)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--mode", choices=["all", "embedded", "up", "web"], default="all")
    options = parser.parse_args()
    began_s = time.monotonic()
    tally = run_worlds(options.kills, options.seed, options.mode, lambda text: print(text, flush=True))
    print(report(tally, options.seed, time.monotonic() - began_s), flush=True)
    return 1 if tally.violations else 0


if __name__ == "__main__":
    sys.exit(main())
