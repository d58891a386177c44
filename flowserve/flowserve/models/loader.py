"""From a folder to a model in memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch

from ..config import EngineConfig
from ..device.base import DeviceAdapter, WeightsSource
from ..device.select import select_device
from ..errors import CheckpointChangedError
from ..loading.throwaway import has_one_thread, run_apart
from .config import ModelConfig
from .folder_plan import generating_config, read_plan
from .folder_state import FolderState
from .plan import DecoderPlan

T = TypeVar("T")
NUM_READS = 3
"""Of a folder that changes while it is read."""


@dataclass(frozen=True)
class LoadedModel:
    """Weights in memory, without an engine: what a template process holds before it forks.

    weights: what the device made of the plan, for the device alone to use.  source: where they came from.
    files: what was read of the folder, the weights' files by identity: one that changes later is noticed.
    """

    folder: Path
    plan: DecoderPlan
    weights: Any
    dtype: torch.dtype
    device: DeviceAdapter
    files: FolderState
    source: WeightsSource

    @property
    def config(self) -> ModelConfig:
        return self.plan.config


def load_model(folder: Path, config: EngineConfig, *, apart: bool = False) -> LoadedModel:
    """Read a model folder. Runs on one thread, so a process may fork afterwards and its children go parallel.

    apart: what has to be converted first is converted in a child, where this process has one thread.
    A folder that changes meanwhile is read again. Raises ModelNotFoundError, UnsupportedModelError (of a folder that is
    meant for embeddings, too), CheckpointError, CheckpointChangedError for one that keeps changing, LoadingError, or
    what the device says of the options.
    """
    return unchanged(lambda: _load(folder, config, apart), lambda loaded: loaded.files)


def unchanged(read: Callable[[], T], files_of: Callable[[T], FolderState]) -> T:
    """What `read` makes of a folder that stayed as it was meanwhile, so that nothing old and new are mixed in it."""
    for _ in range(NUM_READS):
        try:
            found = read()
        except CheckpointChangedError as error:  # noticed on the way
            text = str(error)
            continue
        if not (text := files_of(found).changed()):
            return found
    raise CheckpointChangedError(f"{text} while it was loaded, again and again")


def _load(folder: Path, config: EngineConfig, apart: bool) -> LoadedModel:
    files = FolderState.of_metadata(folder)
    model_config = generating_config(folder)
    device = select_device(config.device)
    dtype = device.resolve_dtype(config.dtype, getattr(torch, model_config.dtype, torch.float32))
    plan = read_plan(folder, model_config)
    assert isinstance(plan, DecoderPlan)
    files = files.with_weights(plan.files().items())

    def convert() -> str:
        device.load(plan, dtype, config)
        return ""

    with one_thread(), torch.inference_mode():
        source = device.source(plan, dtype, config)
        if apart and source.kind == "conversion" and has_one_thread():
            run_apart(f"converting the weights of {folder}", convert)
        weights = device.load(plan, dtype, config)
    return LoadedModel(folder, plan, weights, dtype, device, files, source)


@contextmanager
def one_thread() -> Iterator[None]:
    """A fork after a parallel tensor operation leaves the child a thread pool without threads: its first hangs."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
