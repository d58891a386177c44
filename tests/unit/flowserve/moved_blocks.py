"""What a sequence's blocks must survive on any runner: being copied, read out and written elsewhere."""

from __future__ import annotations

import torch

from flowserve.device.base import Runner
from flowserve.scheduling.batch import Batch, ScheduledSequence


def logits_before_and_after(runner: Runner, prompt: list[int]) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits behind the last of 24 tokens, from blocks 0 to 2 of 8 tokens and from where they were moved."""
    tokens = {"a": prompt}
    with torch.inference_mode():
        runner.run(Batch((ScheduledSequence("a", 0, 23, (0, 1, 2), 0, 0, 0),)), tokens)
        expected = runner.run(Batch((ScheduledSequence("a", 23, 1, (0, 1, 2), 1, 0, 0),)), tokens).values
        buffer = memoryview(bytearray(runner.storage.block_bytes))
        runner.storage.copy_block(0, 30)
        runner.storage.read_block(1, buffer)
        runner.storage.write_block(29, buffer)
        runner.storage.copy_block(2, 28)
        for block in (0, 1, 2):
            runner.storage.write_block(block, memoryview(bytearray(runner.storage.block_bytes)))
        moved = runner.run(Batch((ScheduledSequence("a", 23, 1, (30, 29, 28), 1, 0, 0),)), tokens).values
    return expected, moved
