"""The load of the kill loop: one client process that calls in every way there is, and keeps a ledger of every call.

python -m tests.killing.load SEED: runs until a line comes on stdin, prints its report as one line of JSON.

Each call has to end exactly once: with the right value, or with an error of its list whose text names the cause.
"""

from __future__ import annotations

import asyncio
import contextlib
import faulthandler
import itertools
import json
import os
import random
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

import deepserve
from deepserve._current_client import current_client
from tests.killing.app import (
    RUNS,
    Store,
    Table,
    again,
    beside_others,
    counts,
    counts_on,
    doubles,
    in_a_loop,
    nested,
    once,
    short,
    together,
)
from tests.killing.ledger import NOT_BEGUN, Ledger, judge

NUM_THREADS = 8
HANG_S = 45.0
"""No call here takes longer, whatever happens to its pods: 3 s limits, a grace of 1 s, few retries."""
SETTLE_S = 15.0
"""For what the client has left or cancelled to end in its pods."""


class Load:
    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.ledger = Ledger()
        self.is_over = threading.Event()
        self.doing: dict[int, str] = {}
        self.deeds: list[tuple[int, Callable[[random.Random, str], str]]] = [
            (8, self.call),
            (4, self.call_in_a_loop),
            (6, self.spawn_and_get),
            (6, self.spawn_and_cancel),
            (3, self.cancel_one_of_several),
            (4, self.map_all),
            (4, self.map_many_short),
            (2, self.leave_a_map),
            (4, self.stream),
            (3, self.stream_in_two_parts),
            (2, self.leave_a_stream),
            (4, self.call_a_method),
            (4, self.call_inside_calls),
            (2, self.pass_much),
            (2, self.pass_a_ref),
            (3, self.call_on_a_call),
            (3, self.call_in_batches),
            (3, self.spawn_many),
        ]

    def run_thread(self, number: int) -> None:
        chance = random.Random(f"{self.seed}-{number}")
        while not self.is_over.is_set():
            [deed] = chance.choices([deed for _, deed in self.deeds], [weight for weight, _ in self.deeds])
            kind = deed.__name__.replace("_", " ")
            self.doing[number] = kind
            self.do(kind, deed, chance)
        self.doing.pop(number, None)

    def do(self, kind: str, deed: Callable[[random.Random, str], str], chance: random.Random) -> None:
        began_s = time.monotonic()
        with self.ledger.lock:
            self.ledger.begun[kind] += 1
        try:
            outcome = deed(chance, kind)
        except NOT_BEGUN:
            with self.ledger.lock:
                self.ledger.begun[kind] -= 1
                self.ledger.num_not_begun += 1
            self.is_over.wait(0.05)
            return
        except Exception as error:
            outcome = self.outcome_of(kind, error, is_cancelled=False)
        self.ledger.end(kind, outcome, began_s)

    def outcome_of(self, kind: str, error: BaseException, is_cancelled: bool) -> str:
        if isinstance(error, NOT_BEGUN):
            raise error
        if text := judge(error, is_cancelled):
            self.ledger.violate(kind, text)
        if stopped := getattr(error, "stopped", ""):
            with self.ledger.lock:
                self.ledger.stopped[stopped] += 1
        return type(error).__name__

    def check(self, kind: str, value: Any, expected: Any) -> str:
        if value != expected:
            self.ledger.violate(kind, f"{value!r} where {expected!r} was to come")
        return "ok"

    # --- deeds: each makes one call and returns its outcome -------------------------------------------------

    def call(self, chance: random.Random, kind: str) -> str:
        x = chance.randrange(1000)
        function = chance.choice([once, again])
        return self.check(kind, function.remote(x, chance.choice([0.0, 0.0, 0.05, 0.3])), x * x)

    def call_in_a_loop(self, chance: random.Random, kind: str) -> str:
        x = chance.randrange(1000)
        return self.check(kind, asyncio.run(in_a_loop.remote.aio(x, chance.choice([0.0, 0.1]))), x * x)

    def spawn_and_get(self, chance: random.Random, kind: str) -> str:
        """The outcome asked for twice is the same."""
        x = chance.randrange(1000)
        call = chance.choice([once, again, beside_others]).spawn(x, chance.choice([0.0, 0.1, 0.3]))
        outcomes = []
        for _ in range(2):
            try:
                outcomes.append(self.check(kind, call.get(timeout=HANG_S), x * x))
            except Exception as error:
                outcomes.append(self.outcome_of(kind, error, is_cancelled=False))
        if outcomes[0] != outcomes[1]:
            self.ledger.violate(kind, f"{call.id} ended twice: {outcomes}")
        self.ledger.account(kind, call, outcomes[0])
        return outcomes[0]

    def spawn_and_cancel(self, chance: random.Random, kind: str) -> str:
        x = chance.randrange(1000)
        call = chance.choice([once, again]).spawn(x, chance.choice([0.1, 2.0]))
        return self.cancel(kind, call, x * x, chance)

    def cancel_one_of_several(self, chance: random.Random, kind: str) -> str:
        x = chance.randrange(1000)
        call = beside_others.spawn(x, 2.5, is_stubborn=chance.random() < 0.3)
        return self.cancel(kind, call, x * x, chance)

    def cancel(self, kind: str, call: deepserve.Call[int], expected: int, chance: random.Random) -> str:
        time.sleep(chance.choice([0.0, 0.05, 0.2]))
        try:
            call.cancel(force=chance.random() < 0.2)
            outcome = self.check(kind, call.get(timeout=HANG_S), expected)
        except Exception as error:
            outcome = self.outcome_of(kind, error, is_cancelled=True)
        self.ledger.account(kind, call, outcome)
        return outcome

    def map_all(self, chance: random.Random, kind: str) -> str:
        """Every input comes out once, in its place."""
        function = chance.choice([once, again, beside_others])
        inputs = [(chance.randrange(1000), chance.choice([0.0, 0.01])) for _ in range(chance.randrange(1, 40))]
        outcomes = Counter[str]()
        given = 0
        for (x, _), result in zip(inputs, function.starmap(inputs, return_exceptions=True), strict=True):
            given += 1
            if isinstance(result, BaseException):
                outcomes[self.outcome_of(kind, result, is_cancelled=False)] += 1
            else:
                outcomes[self.check(kind, result, x * x)] += 1
        if given != len(inputs):
            self.ledger.violate(kind, f"{given} of {len(inputs)} inputs came out")
        return "ok" if set(outcomes) == {"ok"} else "ok, some inputs failed"

    def map_many_short(self, chance: random.Random, kind: str) -> str:
        """In chunks, of which a pod's death takes one input at most."""
        inputs = [chance.randrange(1000) for _ in range(chance.randrange(100, 600))]
        outcomes = Counter[str]()
        for x, result in zip(inputs, short.map(inputs, return_exceptions=True), strict=True):
            if isinstance(result, BaseException):
                outcomes[self.outcome_of(kind, result, is_cancelled=False)] += 1
            else:
                outcomes[self.check(kind, result, x * x)] += 1
        return "ok" if set(outcomes) == {"ok"} else "ok, some inputs failed"

    def leave_a_map(self, chance: random.Random, kind: str) -> str:
        for number, value in enumerate(once.starmap([(x, 0.02) for x in range(200)])):
            self.check(kind, value, number * number)
            if number == 3:
                break
        return "left"

    def stream(self, chance: random.Random, kind: str) -> str:
        """Items come in order, none missing, none twice."""
        n, came = chance.randrange(1, 200), 0
        for item in chance.choice([counts, counts_on]).remote(n, chance.choice([0.0, 0.002])):
            self.check(kind, item, came)
            came += 1
        return self.check(kind, came, n)

    def stream_in_two_parts(self, chance: random.Random, kind: str) -> str:
        """Left after some items and read on from there; then once more from an earlier one, where it is kept."""
        n = chance.randrange(20, 100)
        call = counts_on.spawn(n, 0.001)
        first = list(itertools.islice(call.stream(), 10))
        rest = list(call.stream(from_offset=5, with_offset=True))
        return self.check(kind, (first, rest), (list(range(10)), [(i, i) for i in range(5, n)]))

    def leave_a_stream(self, chance: random.Random, kind: str) -> str:
        for came, item in enumerate(counts.remote(500, 0.001)):
            self.check(kind, item, came)
            if came == 5:
                break
        return "left"

    def call_a_method(self, chance: random.Random, kind: str) -> str:
        x, factor = chance.randrange(1000), chance.choice([1, 2])
        if chance.random() < 0.5:
            return self.check(kind, Table().square.remote(x), x * x)
        return self.check(kind, Store(factor=factor).scale.remote(x), x * factor)

    def call_inside_calls(self, chance: random.Random, kind: str) -> str:
        x = chance.randrange(1000)
        return self.check(kind, nested.remote(chance.randrange(4), x), x * x)

    def pass_much(self, chance: random.Random, kind: str) -> str:
        data = chance.randbytes(64) * chance.choice([1 << 10, 1 << 14])
        return self.check(kind, doubles.remote(data) == data + data, True)

    def pass_a_ref(self, chance: random.Random, kind: str) -> str:
        data = chance.randbytes(1 << 16) * 8
        ref = deepserve.put(data)
        try:
            return self.check(kind, doubles.remote(ref.arg) == data + data, True)
        finally:
            ref.delete()

    def call_on_a_call(self, chance: random.Random, kind: str) -> str:
        """What the inner call ends with, the outer one ends with too."""
        x = chance.randrange(1000)
        return self.check(kind, once.remote(again.spawn(x, 0.05).arg, 0.0), x**4)

    def spawn_many(self, chance: random.Random, kind: str) -> str:
        """Some dozens at a time, every third cancelled."""
        inputs = [chance.randrange(1000) for _ in range(chance.randrange(10, 60))]
        calls = [chance.choice([once, again]).spawn(x, 0.0) for x in inputs]
        for call in calls[::3]:
            call.cancel()
        outcomes = Counter[str]()
        for number, (x, call) in enumerate(zip(inputs, calls, strict=True)):
            try:
                outcome = self.check(kind, call.get(timeout=HANG_S), x * x)
            except Exception as error:
                outcome = self.outcome_of(kind, error, is_cancelled=number % 3 == 0)
            self.ledger.account(kind, call, outcome)
            outcomes[outcome] += 1
        return "ok" if set(outcomes) <= {"ok", "CallCancelled"} else "ok, some failed"

    def call_in_batches(self, chance: random.Random, kind: str) -> str:
        inputs = [chance.randrange(1000) for _ in range(chance.randrange(1, 30))]
        failures = 0
        for x, result in zip(inputs, together.map(inputs, return_exceptions=True), strict=True):
            if isinstance(result, BaseException):
                failures += 1
                self.outcome_of(kind, result, is_cancelled=False)
            else:
                self.check(kind, result, x * x)
        return "ok, some inputs failed" if failures else "ok"

    # --- the end ----------------------------------------------------------------------------------------------

    def check_controller(self) -> None:
        """Nothing of this client's runs on where it cannot be seen: no request, no value in shared memory."""
        try:
            client = current_client()
            ends_at_s, left = time.monotonic() + SETTLE_S, ["?"]
            while left and time.monotonic() < ends_at_s:
                time.sleep(0.05)
                left = [f"{client.inboxes.num_open} pending calls"] if client.inboxes.num_open else []
                if num_running := client.query("status")["num_running"]:
                    left.append(f"{num_running} requests in the controller")
                folder = client.welcome.segments
                if os.path.isdir(folder):  # else the controller is one on another host
                    left += [name for name in os.listdir(folder) if not name.startswith(".")]
            if left:
                self.ledger.violate("the end", f"left in a controller: {', '.join(left)}")
        except deepserve.DeepServeError:  # it was killed last: then it has nothing left
            return

    def tell_controller(self) -> None:
        """What the controller thinks of the calls that hang, on stderr."""
        with contextlib.suppress(deepserve.DeepServeError):
            status = current_client().query("status")
            for kind in ("pods", "templates", "functions"):
                for view in status[kind]:
                    print(f"Thread 0x: {kind} {view}", file=sys.stderr)
            for record in current_client().query("requests", {"limit": 0})["requests"]:
                print(f"requests {record}", file=sys.stderr)

    def check_runs(self, path: str) -> int:
        """No input ran more often than was counted, and what succeeded did run. Returns how many runs there were."""
        runs = Counter(line.split()[0] for line in open(path)) if os.path.exists(path) else Counter[str]()
        for call_id, (outcome, attempts) in self.ledger.attempts.items():
            if runs[call_id] > attempts:
                self.ledger.violate("runs", f"{call_id} ran {runs[call_id]} times, {attempts} attempts were counted")
            if outcome == "ok" and not runs[call_id]:
                self.ledger.violate("runs", f"{call_id} has a result but never ran")
        return sum(runs.values())

    def report(self, num_runs: int) -> str:
        ledger = self.ledger
        return json.dumps(
            {
                "begun": dict(ledger.begun),
                "outcomes": {kind: dict(outcomes) for kind, outcomes in ledger.outcomes.items()},
                "stopped": dict(ledger.stopped),
                "not_begun": ledger.num_not_begun,
                "slowest_s": ledger.slowest_s,
                "runs": num_runs,
                "violations": ledger.violations,
            }
        )


def main() -> int:
    load = Load(int(sys.argv[1]))
    threads = [threading.Thread(target=load.run_thread, args=(number,), daemon=True) for number in range(NUM_THREADS)]
    for thread in threads:
        thread.start()
    sys.stdin.readline()
    load.is_over.set()
    ends_at_s = time.monotonic() + HANG_S
    for thread in threads:
        thread.join(max(0.0, ends_at_s - time.monotonic()))
    hung = dict(load.doing)
    for kind in hung.values():
        load.ledger.violate(kind, f"has not ended after {HANG_S:g} s")
    if not hung:
        load.check_controller()
    else:
        load.tell_controller()
        faulthandler.dump_traceback(all_threads=True)
    print(load.report(load.check_runs(RUNS)), flush=True)
    return 1 if hung else 0


if __name__ == "__main__":
    code = main()
    if code:
        sys.stdout.flush()
        os._exit(code)
