"""From a folder to a model in memory."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ..config import EngineConfig
from ..device.base import DeviceAdapter
from ..device.select import select_device
from .checkpoint import Checkpoint
from .config import ModelConfig, read_model_config
from .plan import DecoderPlan
from .registry import plan_builder


@dataclass(frozen=True)
class LoadedModel:
    """Weights in memory, without an engine: what a template process holds before it forks.

    weights: what the device made of the plan, for the device alone to use.
    """

    folder: Path
    plan: DecoderPlan
    weights: Any
    dtype: torch.dtype
    device: DeviceAdapter

    @property
    def config(self) -> ModelConfig:
        return self.plan.config


def load_model(folder: Path, config: EngineConfig) -> LoadedModel:
    """Read a model folder. Runs on one thread, so a process may fork afterwards and its children go parallel.

    Raises ModelNotFoundError, UnsupportedModelError, CheckpointError, or what the device says of the options.
    """
    model_config = read_model_config(folder)
    build_plan = plan_builder(model_config.architecture)
    device = select_device(config.device)
    dtype = device.resolve_dtype(config.dtype, getattr(torch, model_config.dtype, torch.float32))
    plan = build_plan(Checkpoint(folder), model_config)
    with one_thread(), torch.inference_mode():
        weights = device.load(plan, dtype, config)
    return LoadedModel(folder, plan, weights, dtype, device)


@contextmanager
def one_thread() -> Iterator[None]:
    """A fork after a parallel tensor operation leaves the child a thread pool without threads: its first hangs."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
