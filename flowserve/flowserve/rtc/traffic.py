"""BlockTraffic: between the master's plans, the mover and the engine's steps."""

from __future__ import annotations

from ..config import EngineConfig
from ..cost_model import CostModel
from ..device.base import BlockStorage, StorageLayout
from ..errors import InvalidConfigError
from ..scheduling.batch import Batch
from ..step_record import StepSetting
from .cache import RelationalTensorCache
from .mover import Mover
from .rules import MeasuredCosts, estimated_costs
from .tier_storage import BlockFile, HostArena

COMPARED = (
    *("shape", "device", "backend", "dtype", "checkpoint_dtype", "quantization", "kv_cache_dtype", "num_threads"),
    "window",
)
"""What the time of a step depends on, beside what is in it."""

PREFILL_TOKENS = 16
"""Steps of fewer tokens say nothing about what a prompt's tokens cost."""


def engine_cache(layout: StorageLayout, config: EngineConfig, window: int) -> RelationalTensorCache:
    """The master of an engine's KV cache. Raises InvalidConfigError for a lower tier that holds no block."""
    return RelationalTensorCache(
        layout.num_blocks,
        layout.block_size,
        config.enable_prefix_caching,
        num_host_blocks=_num_slots("host_cache_bytes", config.host_cache_bytes, layout.block_bytes),
        num_file_blocks=_num_slots("file_cache_bytes", config.file_cache_bytes, layout.block_bytes),
        context_share=config.context_cache_share,
        window=window,
    )


def engine_costs(config: EngineConfig, setting: StepSetting, num_parameters: int) -> MeasuredCosts:
    """What an engine's cache weighs fetching by. Raises StepLogError; InvalidConfigError for a model of other steps."""
    estimate = estimated_costs(num_parameters, setting.block_bytes)
    if config.cost_model is None:
        return MeasuredCosts(estimate)
    model = CostModel.load(config.cost_model)
    for name in COMPARED:
        fitted, own = getattr(model.setting, name), getattr(setting, name)
        if fitted != own:
            raise InvalidConfigError(
                f"cost_model {str(config.cost_model)!r} is of another engine: its {name} is {fitted!r}, here {own!r}"
            )
    return MeasuredCosts(model.cost_view(estimate.transfer_s_per_block), is_fitted=True)


def _num_slots(name: str, num_bytes: int | None, block_bytes: int) -> int:
    if num_bytes is not None and num_bytes < block_bytes:
        raise InvalidConfigError(f"{name} {num_bytes} holds no KV block of {block_bytes} bytes")
    return (num_bytes or 0) // block_bytes


class BlockTraffic:
    """One engine's moves. Around each step: `receive`, then plan it, `dispatch`, run it, `step_done`.

    Without a tier below the device there are none, and nothing is done.
    """

    def __init__(
        self, cache: RelationalTensorCache, storage: BlockStorage, config: EngineConfig, costs: MeasuredCosts
    ) -> None:
        self._cache = cache
        self._mover: Mover | None = None
        self._costs = costs
        self._num_started = 0
        self._num_done = 0
        if cache.tiers.exist:
            host = HostArena(cache.tiers.host.num_slots, storage.block_bytes)
            has_file = cache.tiers.file.num_slots > 0
            file = BlockFile(config.file_cache_folder, storage.block_bytes) if has_file else None
            self._mover = Mover(storage, host, file)

    def receive(self) -> None:
        """Tell the master what has been moved since the last call, and what moving and computing cost."""
        if self._mover is None:
            return
        results = self._mover.take_results()
        for result in results:
            if result.error is None and result.move.fills_device:
                self._costs.observe_fetch(result.move.source, result.seconds)
        self._cache.finish_moves(results)
        self._cache.costs = self._costs.view()

    def dispatch(self, batch: Batch) -> None:
        """Start the moves planned with a batch; returns when the batch may run."""
        if self._mover is None:
            return
        after_step = self._num_started + bool(batch.copies)  # a copy may read what a move was given to fill
        if moves := self._cache.tiers.take_moves():
            self._mover.submit(moves, after_step)
            self._mover.wait_for_reads()
        if batch:
            self._num_started += 1

    def step_done(self, batch: Batch, seconds: float) -> None:
        """The oldest batch in flight was computed, in `seconds`."""
        if self._mover is None:
            return
        self._num_done += 1
        self._mover.step_done(self._num_done)
        if batch.num_tokens >= PREFILL_TOKENS:
            self._costs.observe_step(batch.num_tokens, seconds)

    def wait(self, timeout_s: float = 0.1) -> None:
        """Nothing can run: wait until a move is done, if one is under way."""
        if self._mover is not None and self._cache.tiers.num_in_flight:
            self._mover.wait_for_result(timeout_s)

    def leave_device(self) -> int:
        """Empty the device's storage, which is given up then: what the tiers below have or take stays preserved there.

        Returns how many blocks were preserved on the device alone and are lost. No step may be in flight.
        """
        forgotten = self._cache.stats().forgotten_blocks
        self._drain()
        while self._cache.leave_device():
            self._drain()
        self._drain()
        return self._cache.stats().forgotten_blocks - forgotten

    def attach(self, storage: BlockStorage | None) -> None:
        """The device's storage is another one from now on, with nothing in it (`leave_device` came before); or none."""
        if self._mover is not None:
            self._mover.storage = storage

    def _drain(self) -> None:
        """Carry out all moves that are planned, and those that follow from them."""
        if self._mover is None:
            return
        self.dispatch(Batch(()))
        while self._cache.tiers.num_in_flight:
            self._mover.wait_for_result(0.1)
            self.receive()
            self.dispatch(Batch(()))

    def close(self) -> None:
        if self._mover is not None:
            self._mover.close()
