"""`deepserve model bench`: how fast a deployed model answers several clients."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

from deepserve._model import Model
from deepserve._model_request import messages_of
from deepserve._model_sampling import params_of
from deepserve.cli.connection import connected
from deepserve.cli.exit_codes import OK, UsageError
from deepserve.cli.output import print_json, print_table
from deepserve.protocol.model_io import ChatInput

WORD = "word "


class Answered(NamedTuple):
    """One stream: seconds to its first piece, and in all; tokens of the whole answer."""

    first_s: float
    total_s: float
    tokens: int


def bench_model(
    name: str, *, num_requests: int, num_clients: int, prompt_words: int, max_tokens: int, as_json: bool
) -> int:
    """Greedy and without an end of sequence, so that each answer has `max_tokens` tokens."""
    if min(num_requests, num_clients, prompt_words, max_tokens) < 1:
        raise UsageError("requests, clients, words and tokens must be at least 1")
    with connected():
        model = Model.from_name(name)
        cold = ask(model, "", 1)  # which starts the first pod where none is there
        began_s = time.perf_counter()
        with ThreadPoolExecutor(num_clients) as clients:
            prompts = [f"{number} {WORD * prompt_words}" for number in range(num_requests)]
            answers = list(clients.map(lambda prompt: ask(model, prompt, max_tokens), prompts))
        took_s = time.perf_counter() - began_s
    report = report_of(answers, took_s) | {
        "model": name, "requests": num_requests, "clients": num_clients, "before_s": cold.total_s,
    }  # fmt: skip
    if as_json:
        print_json(report)
    else:
        show(report)
    return OK


def ask(model: Model, prompt: str, max_tokens: int, clock: Callable[[], float] = time.perf_counter) -> Answered:
    began_s = clock()
    first_s = 0.0
    params = params_of("bench", {"max_tokens": max_tokens, "temperature": 0, "ignore_eos": True})
    stream = model.requests.stream(ChatInput(messages_of(prompt or "hi"), params), "bench")
    for _ in stream:
        first_s = first_s or clock() - began_s
    assert stream.generated is not None
    total_s = clock() - began_s
    return Answered(first_s or total_s, total_s, stream.generated.completion_tokens)


def report_of(answers: list[Answered], took_s: float) -> dict[str, Any]:
    first_s = sorted(answer.first_s for answer in answers)
    per_token_s = sorted((a.total_s - a.first_s) / max(1, a.tokens - 1) for a in answers)
    return {
        "tokens_per_s": sum(answer.tokens for answer in answers) / took_s,
        "requests_per_s": len(answers) / took_s,
        "first_token_s": {"p50": quantile(first_s, 0.5), "p99": quantile(first_s, 0.99)},
        "per_token_s": {"p50": quantile(per_token_s, 0.5), "p99": quantile(per_token_s, 0.99)},
    }


def quantile(ordered: list[float], share: float) -> float:
    """The smallest that at least `share` of all are not above."""
    return ordered[max(0, math.ceil(len(ordered) * share) - 1)]


def show(report: dict[str, Any]) -> None:
    rows = [
        ("answers", f"{report['requests_per_s']:.2f} /s"),
        ("tokens", f"{report['tokens_per_s']:.1f} /s"),
        *(
            (f"{what}, {share}", f"{report[key][share] * 1e3:.1f} ms")
            for key, what in (("first_token_s", "first token"), ("per_token_s", "each further token"))
            for share in ("p50", "p99")
        ),
        ("one token before all that", f"{report['before_s'] * 1e3:.1f} ms"),
    ]
    print_table((f"{report['requests']} requests of {report['clients']} clients", report["model"]), rows, empty="")
