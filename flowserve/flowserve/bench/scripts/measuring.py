"""What every subject's script does alike: its arguments, the works, their timing, and the lines that it prints.

Run by the Python of each peer, so the standard library alone. A script hands `run` a function that loads the model and
returns two others: `generate(prompts, num_out)` gives, for each prompt, the times (time.perf_counter) at which its
tokens arrived; `keep(prefix)` makes a prefix known, or is None where the subject keeps none between calls.
"""

import argparse
import json
import os
import random
import sys
import time
from typing import NamedTuple

NUM_CORES = len(os.sched_getaffinity(0))
NOISY_CORES = 0.3
"""Of the machine used by others: a figure that was taken so is taken again, NUM_AGAIN times at most."""
NUM_AGAIN = 1
AGAIN_MOST_S = 5.0
"""What takes longer is not taken again: further rounds say more in the same time."""
QUIET_WAIT_S = 2.0
TICKS_S = 0.1
"""What takes less cannot be held against the clock of /proc/stat, which ticks every 10 ms."""
READ_MB = (1, 4, 16, 64, 256, 1024)
"""Sizes of which the machine's reading is measured: from a cache or from memory, whatever it says of its caches."""
NUM_SAMPLES, SAMPLES_CPU_S = 3, 5.0
"""A figure has one sample a round, or up to so many where they take little processor time together."""


class Work(NamedTuple):
    """num prompts at once, each of `shared` tokens that all begin with and `own` ones; num_out tokens for each."""

    num: int
    shared: int
    own: int
    num_out: int


WORKS = {
    "one": Work(1, 0, 128, 128),
    "sixteen": Work(16, 0, 128, 64),
    "shared": Work(16, 512, 32, 16),
    "prompt": Work(1, 0, 2048, 1),
}
QUICK_WORKS = {
    "one": Work(1, 0, 16, 4),
    "sixteen": Work(4, 0, 16, 3),
    "shared": Work(4, 64, 8, 2),
    "prompt": Work(1, 0, 64, 1),
}


def arguments():
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", required=True, help="the folder or file that this subject reads")
    parser.add_argument("--precision", required=True)
    parser.add_argument("--vocab", type=int, required=True)
    parser.add_argument("--works", default="", help="separated by commas; none: to the first token, and no further")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--backend", default="auto")
    parser.add_argument("--speculative", type=int, default=0)
    given = parser.parse_args()
    if given.quick:  # what is measured does not matter
        global NUM_AGAIN, QUIET_WAIT_S
        NUM_AGAIN, QUIET_WAIT_S = 0, 0.0
    return given


class Prompts:
    """Random token ids, new ones at each call, so that no prefix cache knows them; the same for every subject."""

    def __init__(self, vocab, seed):
        self._random, self._vocab = random.Random(seed), vocab

    def ids(self, number):
        return [self._random.randrange(8, self._vocab - 8) for _ in range(number)]

    def of(self, work, shared=None):
        shared = self.ids(work.shared) if shared is None else shared
        return [shared + self.ids(work.own) for _ in range(work.num)]


def common_prefix(prompts):
    """How many tokens all begin with, at least one left to each; 0 for a single prompt."""
    longest = min(map(len, prompts)) - 1 if len(prompts) > 1 else 0
    number = 0
    while number < longest and len({prompt[number] for prompt in prompts}) == 1:
        number += 1
    return number


def run(arguments, load):
    """load() -> generate, keep. Prints a line at the first token, and one for each figure."""
    generate, keep = load()
    prompts = Prompts(arguments.vocab, arguments.seed)
    works = QUICK_WORKS if arguments.quick else WORKS
    generate(prompts.of(works["one"]), 1)
    say(
        first_token_s=time.monotonic(),
        busy_s=busy_s(),
        cpu_s=time.process_time(),
        peak_mb=memory_mb("VmHWM"),
        mb=memory_mb("VmRSS"),
    )
    if not arguments.works:
        return
    forget_peak()
    for name in arguments.works.split(","):
        _measure(name, works[name], prompts, generate, keep)
    say(work="memory", unit="MB", value=memory_mb("VmHWM"), foreign=0.0)


def _measure(name, work, prompts, generate, keep):
    def unseen():
        return timed(generate, prompts.of(work), work.num_out)

    def prefix_seen():
        prefix = prompts.ids(work.shared)
        keep(prefix)
        return timed(generate, prompts.of(work, prefix), work.num_out)

    for times, foreign in samples(unseen):
        if name == "one":
            arrived = times[0]
            say(work="first", unit="ms", value=(arrived[0] - times.start_s) * 1e3, foreign=foreign)
            rate = (len(arrived) - 1) / (arrived[-1] - arrived[0])
            say(work="one", unit="tokens/s", value=rate, foreign=foreign)
        elif name == "sixteen":
            say(work=name, unit="tokens/s", value=work.num * work.num_out / times.all_s, foreign=foreign)
        elif name == "prompt":
            say(work=name, unit="tokens/s", value=work.own / times.all_s, foreign=foreign)
        else:
            say(work="shared cold", unit="s", value=times.all_s, foreign=foreign)
    if name == "shared" and keep is not None:
        for times, foreign in samples(prefix_seen):
            say(work="shared warm", unit="s", value=times.all_s, foreign=foreign)


class Times(list):
    """For each prompt the arrivals of its tokens; from when they count, and until the last was there."""

    start_s = 0.0

    @property
    def all_s(self):
        return max(arrived[-1] for arrived in self) - self.start_s


def timed(generate, prompts, num_out):
    start_s = time.perf_counter()
    times = Times(generate(prompts, num_out))
    times.start_s = start_s
    found = [len(arrived) for arrived in times]
    if found != [num_out] * len(prompts):
        raise SystemExit(f"{len(prompts)} x {num_out} tokens were asked for, there came {found}")
    return times


# --- the machine: who else computes, and how much memory this process takes ------------------------------


def samples(measure):
    """One or several of `quietly(measure)`."""
    end_s = time.process_time() + SAMPLES_CPU_S
    for _ in range(NUM_SAMPLES):
        yield quietly(measure)
        if time.process_time() > end_s:
            return


def quietly(measure):
    """What `measure` returned when others used the least of the machine, and how many cores they used then."""
    best = None
    for _ in range(1 + NUM_AGAIN):
        _wait_for_quiet()
        start = (time.monotonic(), busy_s(), time.process_time())
        found = measure()
        took_s = time.monotonic() - start[0]
        if took_s < TICKS_S:
            return found, 0.0
        foreign = max(0.0, ((busy_s() - start[1]) - (time.process_time() - start[2])) / took_s)
        if best is None or foreign < best[1]:
            best = (found, foreign)
        if foreign <= NOISY_CORES or took_s > AGAIN_MOST_S:
            break
    return best


def _wait_for_quiet():
    end_s = time.monotonic() + QUIET_WAIT_S
    while time.monotonic() < end_s:
        before = busy_s()
        time.sleep(0.2)
        if (busy_s() - before) / 0.2 < NOISY_CORES:
            return


def busy_s() -> float:
    """Seconds that all cores together have computed."""
    with open("/proc/stat") as file:
        ticks = [int(each) for each in file.readline().split()[1:]]
    return (ticks[0] + ticks[1] + ticks[2] + ticks[5] + ticks[6]) / os.sysconf("SC_CLK_TCK")


def memory_mb(name):
    """VmHWM: the most that there was (or since `forget_peak`); VmRSS: what there is."""
    with open("/proc/self/status") as file:
        line = next(line for line in file if line.startswith(name + ":"))
    return int(line.split()[1]) * 1024 / 1e6


def forget_peak():
    with open("/proc/self/clear_refs", "w") as file:
        file.write("5")


def say(**line):
    print(json.dumps(line), flush=True)


def quiet_stdout():
    """Lines go to the stdout that there was; what libraries print goes to stderr."""
    sys.stdout = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
