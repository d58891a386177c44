"""A quick look at a network in training: how many of the model's turns it would write exactly, by sort of question."""

from __future__ import annotations

from collections import Counter

import torch
from tokenizers import Tokenizer

from .dialogues import Dialogue, dialogue
from .examples import encode
from .network import Network


def _exact(network: Network, tokenizer: Tokenizer, made: Dialogue) -> bool:
    """Whether greedy decoding would write every turn as the script does; given the right past, one pass tells."""
    tokens, own = encode(made, tokenizer)
    row = torch.tensor([tokens])
    best = network.logits(network(row))[0, :-1].argmax(-1)
    mine = torch.tensor(own[1:], dtype=torch.bool)
    return bool((best == row[0, 1:])[mine].all())


@torch.no_grad()
def probe(network: Network, tokenizer: Tokenizer, count: int) -> str:
    right: Counter[str] = Counter()
    seen: Counter[str] = Counter()
    for number in range(count):
        made = dialogue(f"probe {number}", heldout=True, turns=1)
        category = made.turns[0].category
        seen[category] += 1
        right[category] += _exact(network, tokenizer, made)
    total = f"exact {sum(right.values())}/{count}"
    return "; ".join([total, *(f"{name} {right[name]}/{seen[name]}" for name in sorted(seen))])
