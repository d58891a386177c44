"""Dialogues as numbers: tokens with a weight each, in batches of about equal length."""

from __future__ import annotations

import random
from dataclasses import dataclass

import torch
from tokenizers import Tokenizer
from torch import Tensor

from .dialogues import Dialogue, dialogue
from .template import pieces

POOL = 192  # dialogues that are drawn together
ROUND = 32  # lengths are padded to a multiple of this
LIMIT = 1024  # longer dialogues are left out


@dataclass(frozen=True)
class Batch:
    """`own` is 1 where the next token is the model's own, 0 where it is given, -1 where it is padding."""

    tokens: Tensor
    own: Tensor


def encode(made: Dialogue, tokenizer: Tokenizer) -> tuple[list[int], list[int]]:
    """Tokens and whether each is the model's own. Pieces are encoded apart, as they are when the model is used."""
    tokens: list[int] = []
    own: list[int] = []
    for text, written in pieces(made.messages(), made.tools):
        ids = tokenizer.encode(text, add_special_tokens=False).ids
        tokens += ids
        own += [int(written)] * len(ids)
    return tokens, own


def _stack(rows: list[tuple[list[int], list[int]]], length: int, pad: int) -> Batch:
    tokens = torch.full((len(rows), length), pad)
    own = torch.full((len(rows), length), -1)
    for index, (ids, mine) in enumerate(rows):
        tokens[index, : len(ids)] = torch.tensor(ids)
        own[index, : len(ids) - 1] = torch.tensor(mine[1:])
    return Batch(tokens, own)


def size_limits(progress: float, rng: random.Random) -> tuple[int | None, int]:
    """Turns and tools at a point of the training: short dialogues with few tools come first."""
    if progress < 0.05:
        return 1, 1
    if progress < 0.10:
        return 1, rng.choice((1, 2, 2))
    if progress < 0.18:
        return rng.choice((1, 2)), rng.choice((2, 3))
    return rng.choice((None, None, None, 1)), rng.choice((2, 3, 3, 4, 5))


class Stream:
    """Endless batches. Every batch of one length has the same number of rows: new shapes cost the processor dearly."""

    def __init__(self, tokenizer: Tokenizer, size: int) -> None:
        self.tokenizer, self.size = tokenizer, size
        self.pad = tokenizer.token_to_id("<|endoftext|>")
        self._waiting: dict[int, list[tuple[list[int], list[int]]]] = {}

    def pool(self, number: int, progress: float) -> list[Batch]:
        """The batches that the dialogues of one pool fill; rows that fill none yet wait for the next pool."""
        rng = random.Random(f"pool {number}")
        full = []
        for index in range(POOL):
            turns, tools = size_limits(progress, rng)
            row = encode(dialogue(f"{number} {index}", heldout=False, turns=turns, tools=tools), self.tokenizer)
            length = _padded(len(row[0]))
            if length > LIMIT:
                continue
            rows = self._waiting.setdefault(length, [])
            rows.append(row)
            if len(rows) == max(1, self.size // length):
                full.append(_stack(self._waiting.pop(length), length, self.pad))
        return full


def _padded(length: int) -> int:
    step = ROUND if length <= 16 * ROUND else 4 * ROUND
    return -(-length // step) * step
