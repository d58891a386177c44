"""FlowServe sent to sleep and woken: how long either takes, and the memory of the process that sleeps."""

import os
import time

from measuring import QUICK_WORKS, WORKS, Prompts, arguments, memory_mb, quiet_stdout, quietly, say
from on_flowserve import load_engine, served


def measured(engine, level, generate, prompts):
    """One sleep at a level and one waking, then the first token: what it takes in ms, and MB asleep."""
    start_s = time.perf_counter()
    engine.sleep(level)
    asleep_s = time.perf_counter()
    asleep_mb = memory_mb("VmRSS")
    waking_s = time.perf_counter()
    engine.wake()
    awake_s = time.perf_counter()
    generate(prompts, 1)
    return 1e3 * (asleep_s - start_s), 1e3 * (awake_s - waking_s), asleep_mb


if __name__ == "__main__":
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    quiet_stdout()
    given = arguments()
    engine = load_engine(given)
    generate, _ = served(engine)
    prompts = Prompts(given.vocab, given.seed)
    work = (QUICK_WORKS if given.quick else WORKS)["one"]
    generate(prompts.of(work), 1)
    for level in (1, 2):
        (sleep_ms, wake_ms, asleep_mb), foreign = quietly(
            lambda: measured(engine, level, generate, prompts.of(work))  # noqa: B023
        )
        say(work=f"sleep {level}", unit="ms", value=sleep_ms, foreign=foreign)
        say(work=f"wake {level}", unit="ms", value=wake_ms, foreign=foreign)
        say(work=f"asleep {level}", unit="MB", value=asleep_mb, foreign=foreign)
