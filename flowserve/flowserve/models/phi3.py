"""Phi-3 and Phi-4-mini: the checkpoint stores queries, keys and values as one matrix, and gate and up as one."""

from __future__ import annotations

from .checkpoint import Checkpoint
from .config import ModelConfig
from .names import Differences, decoder_plan
from .plan import DecoderPlan


def build_plan(checkpoint: Checkpoint, config: ModelConfig) -> DecoderPlan:
    return decoder_plan(checkpoint, config, Differences(fused=True))
