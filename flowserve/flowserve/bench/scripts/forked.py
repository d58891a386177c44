"""FlowServe in a forked child of a process that has imported torch: from the fork to the first token."""

import json
import os
import sys
import time

from measuring import QUICK_WORKS, WORKS, Prompts, arguments, busy_s, quiet_stdout, say
from on_flowserve import load_engine, served


def child(given):
    work = (QUICK_WORKS if given.quick else WORKS)["one"]
    generate, _ = served(load_engine(given))
    generate(Prompts(given.vocab, given.seed).of(work), 1)
    os.write(writing, json.dumps([time.monotonic(), time.process_time()]).encode())


quiet_stdout()
given = arguments()
import torch  # noqa: E402, F401

reading, writing = os.pipe()
start_s, busy = time.monotonic(), busy_s()
pid = os.fork()
if pid == 0:
    status = 1
    try:
        child(given)
        status = 0
    except Exception as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr, flush=True)
    finally:
        os._exit(status)
os.close(writing)
said = os.read(reading, 1000)
if os.waitpid(pid, 0)[1]:
    sys.exit("the forked child failed")
first_s, cpu_s = json.loads(said)
took_s = first_s - start_s
say(work="forked", unit="s", value=took_s, foreign=max(0.0, (busy_s() - busy - cpu_s) / took_s))
