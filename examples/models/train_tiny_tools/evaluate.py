"""Measures the model on held-out dialogues: it writes its turns itself, the script answers with the tools' results.

A dialogue counts only if every round asks for exactly the right calls, name and arguments, and every answer holds its
facts. After a wrong round the dialogue ends.
"""

from __future__ import annotations

import argparse
import json
import re
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .by_hand import prompts
from .dialogues import Dialogue, dialogue
from .export import MODEL
from .template import Message, prompt
from .turns import Turn

Generate = Callable[[list[str]], list[str]]  # prompts to continuations, end-of-turn token left out
_CALL = re.compile(r"<tool_call>\s*(.*?)\s*</tool_call>", re.DOTALL)
ROUNDS = 12
MAX_TOKENS = 160


@dataclass
class Run:
    """One dialogue on its way."""

    made: Dialogue
    messages: list[Message] = field(default_factory=list)
    turn: int = 0
    round: int = 0
    failure: str = ""

    def __post_init__(self) -> None:
        self.messages = [*self.made.opening, *self.made.turns[0].messages()[:1]]

    @property
    def done(self) -> bool:
        return bool(self.failure) or self.turn == len(self.made.turns)

    @property
    def category(self) -> str:
        return "several questions" if len(self.made.turns) > 1 else self.made.turns[0].category

    def take(self, text: str) -> None:
        """Judges what the model wrote and goes on with the tools' results or the next question."""
        turn = self.made.turns[self.turn]
        calls = parse_calls(text)
        if self.round < len(turn.rounds):
            self._take_calls(turn, calls, text)
        elif calls or not answer_is_right(turn, text):
            self.failure = f"answer: {text!r}, wanted {turn.answer!r}"
        else:
            self.messages.append({"role": "assistant", "content": text})
            self.turn, self.round = self.turn + 1, 0
            if not self.done:
                self.messages += self.made.turns[self.turn].messages()[:1]

    def _take_calls(self, turn: Turn, calls: list[Any], text: str) -> None:
        wanted = turn.rounds[self.round]
        if sorted(map(json.dumps, calls)) != sorted(json.dumps(call.request()) for call in wanted):
            self.failure = f"calls: {text!r}, wanted {[call.request() for call in wanted]}"
            return
        results = {json.dumps(call.request()): call.content for call in wanted}
        asked = [{"type": "function", "id": str(i), "function": call} for i, call in enumerate(calls)]
        self.messages.append({"role": "assistant", "content": "", "tool_calls": asked})
        self.messages += [{"role": "tool", "content": results[json.dumps(call)]} for call in calls]
        self.round += 1


def parse_calls(text: str) -> list[Any]:
    """The calls in a turn; what is not JSON is kept as text, which no right call equals."""
    found = []
    for body in _CALL.findall(text):
        try:
            found.append(json.loads(body))
        except ValueError:
            found.append(body)
    return found


def answer_is_right(turn: Turn, text: str) -> bool:
    """JSON answers must equal the wanted object; sentences must hold every fact as a word of its own."""
    if turn.category == "json":
        try:
            return bool(json.loads(text) == json.loads(turn.answer))
        except ValueError:
            return False
    return all(re.search(rf"(?<![\w.]){re.escape(fact)}(?!\w)", text, re.IGNORECASE) for fact in turn.facts)


def run_all(made: list[Dialogue], generate: Generate) -> list[Run]:
    """All dialogues side by side, one round of each at a time."""
    runs = [Run(one) for one in made]
    for _ in range(ROUNDS):
        waiting = [run for run in runs if not run.done]
        if not waiting:
            break
        texts = generate([prompt(run.messages, run.made.tools) for run in waiting])
        for run, text in zip(waiting, texts, strict=True):
            run.take(text)
    for run in runs:
        run.failure = run.failure or ("" if run.done else "did not end")
    return runs


def flowserve_generate(folder: Path) -> Generate:
    from flowserve import LLM, SamplingParams

    llm = LLM(str(folder))
    sampling = SamplingParams(temperature=0.0, max_tokens=MAX_TOKENS)

    def generate(prompts: list[str]) -> list[str]:
        return [out.outputs[0].text for out in llm.generate(prompts, sampling)]

    return generate


def transformers_generate(folder: Path, batch: int = 64) -> Generate:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    torch.set_num_threads(2)
    tokenizer = AutoTokenizer.from_pretrained(folder, padding_side="left")
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)

    def some(prompts: list[str]) -> list[str]:
        inputs = tokenizer(prompts, return_tensors="pt", padding=True, return_token_type_ids=False)
        with torch.inference_mode():
            out = model.generate(**inputs, max_new_tokens=MAX_TOKENS, do_sample=False)
        texts = tokenizer.batch_decode(out[:, inputs["input_ids"].shape[1] :], skip_special_tokens=False)
        return [re.split(r"<\|im_end\|>|<\|endoftext\|>", text)[0] for text in texts]

    def generate(prompts: list[str]) -> list[str]:
        # Prompts of like length together, so that little is spent on padding.
        order = sorted(range(len(prompts)), key=lambda index: len(prompts[index]))
        texts = [""] * len(prompts)
        for start in range(0, len(order), batch):
            part = order[start : start + batch]
            for index, text in zip(part, some([prompts[i] for i in part]), strict=True):
                texts[index] = text
        return texts

    return generate


def heldout_dialogues(count: int) -> list[Dialogue]:
    """Half with one question, half with one to three."""
    return [dialogue(f"evaluate {n}", heldout=True, turns=1 if n % 2 else None) for n in range(count)]


def table(runs: list[Run]) -> str:
    seen = Counter(run.category for run in runs)
    right = Counter(run.category for run in runs if not run.failure)
    lines = ["| dialogues | right | of | accuracy |", "| --- | ---: | ---: | ---: |"]
    lines += [f"| {name} | {right[name]} | {seen[name]} | {right[name] / seen[name]:.1%} |" for name in sorted(seen)]
    return "\n".join([*lines, f"| **all** | {right.total()} | {len(runs)} | {right.total() / len(runs):.1%} |"])


def by_hand(generate: Generate, shown: int) -> str:
    """The questions of by_hand.py: how many first rounds are exactly the right call."""
    given, wanted = prompts()
    texts = generate(given)
    wrong = [(t, w) for t, w in zip(texts, wanted, strict=True) if [json.dumps(c) for c in parse_calls(t)] != [w]]
    for text, call in wrong[:shown]:
        print(f"[by hand] {text!r}\n    wanted {call}\n")
    return f"questions written by hand: {len(given) - len(wrong)} of {len(given)} first calls right"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--folder", default=str(MODEL))
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--with", dest="engine", choices=("flowserve", "transformers"), default="flowserve")
    parser.add_argument("--failures", type=int, default=0, help="show so many of the failures")


def main(arguments: argparse.Namespace) -> None:
    started = time.time()
    make = flowserve_generate if arguments.engine == "flowserve" else transformers_generate
    generate = make(Path(arguments.folder))
    runs = run_all(heldout_dialogues(arguments.count), generate)
    for run in [run for run in runs if run.failure][: arguments.failures]:
        print(f"[{run.category}] {run.messages[-1]['content']!r}\n    {run.failure}\n")
    print(table(runs))
    print(by_hand(generate, arguments.failures))
    print(f"{time.time() - started:.0f} seconds with {arguments.engine}")
