"""What hosting models costs: many executors, a cold model's first token, the bytes of its weights, the gateway,
traces replayed with the policies of others, keys beside one that floods.

Subjects are scripts beside those of `deepserve bench scale`, with random models by shape that FlowServe's own benchmark
makes. Compare figures within one run: machines are shared and noisy.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from deepserve.bench.bytecode import compile_packages
from deepserve.bench.calls import run_script
from deepserve.bench.rounds import Job, Sample, report_of, run_rounds
from deepserve.bench.subjects import HERE, OURS
from deepserve.errors import DeepServeError

WORKS = ("executors", "cold", "weights", "gateway", "replay", "tenants")
POLICIES = ("deepserve", "always on", "one a tick", "knative")
TRACES = {"conv": "conversations", "code": "code"}
REPLAYED = {
    **{f"{trace} {what}": f"{title}, replayed: {text}"
       for trace, title in TRACES.items()
       for what, text in (("p50", "first token, median"), ("p99", "first token, p99"),
                          ("cold", "waited for a pod"), ("pods", "pods of the model"))},
}  # fmt: skip
TITLES = {
    **{f"executors {number}": f"1 to {number} executors, all made a token" for number in (2, 4, 16, 64)},
    "second": "a second executor, without its first step",
    "warm template": "a cold model's first token",
    "no template": "the same, torch to be imported",
    "cold file": "the same, its file not in memory",
    "file": "weights from a cold file",
    "cached": "weights from the page cache",
    **{f"{number} streams": f"{number} clients, a stream each" for number in (4, 32)},
    "first token": "a stream's first token",
    **REPLAYED,
    "tenants p50": "15 keys beside one that floods: first token, median",
    "tenants p99": "15 keys beside one that floods: first token, p99",
}


@dataclass(frozen=True)
class Options:
    """works: of WORKS. rounds: samples of each figure. is_quick: tiny models and few executors."""

    works: tuple[str, ...] = WORKS
    rounds: int = 3
    is_quick: bool = False


def measure(options: Options, tell: Callable[[str], None] = lambda text: None) -> dict[str, Any]:
    """All measurements, with what they were taken on. Raises DeepServeError where the engine is not installed."""
    if find_spec("torch") is None:
        raise DeepServeError("deepserve bench models needs the engine: pip install 'deepserve[flowserve]'")
    many, large = ("toy", "toy") if options.is_quick else ("tiny", "small")
    numbers = ["2", "4"] if options.is_quick else ["2", "16", "64"]
    commands = {
        "executors": [["executors.py", many, *numbers]],
        "cold": [["first_token.py", large, how] for how in ("warm", "cold", "evicted")],
        "weights": [["weights.py", large]],
        "gateway": [["gateway.py", many, "4" if options.is_quick else "32"]],
        "replay": _replays(options.is_quick),
        "tenants": [["tenants.py", many, "2" if options.is_quick else "60"]],
    }
    compile_packages()
    with TemporaryDirectory(prefix="ds-bench-") as folder:
        ignored = shutil.ignore_patterns("__pycache__")
        scripts = Path(shutil.copytree(HERE / "scale_scripts", Path(folder, "scripts"), ignore=ignored))
        jobs = [
            Job(f"{OURS}, {' '.join(words)}", " ".join(words), _job(words, scripts))
            for work in options.works
            for words in commands[work]
        ]
        found = run_rounds(jobs, options.rounds, tell)
    return report_of("models", found, options.rounds, None, TITLES)


def _job(words: list[str], scripts: Path) -> Callable[[], list[Sample]]:
    """`NAME=VALUE` before a script are variables of its environment."""
    variables = dict(word.split("=", 1) for word in words if "=" in word)
    command = [word for word in words if "=" not in word]
    return partial(run_script, [sys.executable, *command], scripts, variables)


def _replays(is_quick: bool) -> list[list[str]]:
    """Each trace with each policy: how they are scaled is the controller's configuration."""
    shape, speed, traces = ("toy", 60, {"conv": "60"}) if is_quick else ("tiny", 10, {"conv": "90", "code": "220"})
    policies = ("deepserve", "one a tick") if is_quick else POLICIES
    return [
        [f"DEEPSERVE_MODEL_POLICY={policy}*{speed}", "replay.py", shape, trace, seconds]
        for trace, seconds in traces.items()
        for policy in policies
    ]
