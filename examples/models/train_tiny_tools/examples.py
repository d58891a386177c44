"""Dialogues as numbers: tokens with a weight each, in batches of about equal length."""

from __future__ import annotations

import random
from dataclasses import dataclass

import torch
from tokenizers import Tokenizer
from torch import Tensor

from .dialogues import Dialogue, dialogue
from .template import pieces

POOL = 192  # dialogues that are drawn, sorted by length and cut into batches together
ROUND = 32  # lengths are padded to a multiple of this
LIMIT = 1200  # longer dialogues are left out


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


def _stack(rows: list[tuple[list[int], list[int]]], pad: int) -> Batch:
    length = -(-max(len(tokens) for tokens, _ in rows) // ROUND) * ROUND
    tokens = torch.full((len(rows), length), pad)
    own = torch.full((len(rows), length), -1)
    for index, (ids, mine) in enumerate(rows):
        tokens[index, : len(ids)] = torch.tensor(ids)
        own[index, : len(ids) - 1] = torch.tensor(mine[1:])
    return Batch(tokens, own)


def size_limits(progress: float, rng: random.Random) -> tuple[int | None, int]:
    """Turns and tools at a point of the training: short dialogues with few tools come first."""
    if progress < 0.04:
        return 1, 1
    if progress < 0.10:
        return 1, rng.choice((1, 2))
    if progress < 0.20:
        return rng.choice((1, 1, 2)), rng.choice((2, 3))
    return rng.choice((None, None, 1)), rng.choice((2, 3, 4, 5, 5))


def batches(tokenizer: Tokenizer, pool: int, progress: float, size: int) -> list[Batch]:
    """The batches of one pool, each of about `size` tokens."""
    rng = random.Random(f"pool {pool}")
    rows = []
    for number in range(POOL):
        turns, tools = size_limits(progress, rng)
        rows.append(encode(dialogue(f"{pool} {number}", heldout=False, turns=turns, tools=tools), tokenizer))
    rows = sorted((row for row in rows if len(row[0]) <= LIMIT), key=lambda row: len(row[0]))
    pad = tokenizer.token_to_id("<|endoftext|>")
    cut: list[list[tuple[list[int], list[int]]]] = [[]]
    for row in rows:
        if cut[-1] and (len(cut[-1]) + 1) * len(row[0]) > size:
            cut.append([])
        cut[-1].append(row)
    rng.shuffle(cut)
    return [_stack(part, pad) for part in cut]
