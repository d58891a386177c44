"""The commands `flowserve fit-cost` and `flowserve calibrate`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import msgspec
import typer

from . import engine_options as engine
from .packages import require_packages

Output = Annotated[Path | None, typer.Option("--out", help="Where the model goes, as JSON.", dir_okay=False)]


def fit_cost(
    log: Annotated[Path, typer.Argument(help="A step log (EngineConfig.step_log).", metavar="LOG")], out: Output = None
) -> None:
    """Fit a cost model to a step log and print how well it predicts steps that it was not fitted to."""
    from .cost_model import check_place, error_table, fit
    from .step_log import read_step_log

    if out is not None:
        check_place(out)
    setting, records = read_step_log(log)
    model = fit(records, setting)
    if out is not None:
        model.save(out)
    print(error_table(model))


def calibrate(
    model: engine.Model,
    out: Output = None,
    log: Annotated[Path | None, typer.Option(help="Keep the step log there.", dir_okay=False)] = None,
    seconds: Annotated[float, typer.Option(help="How long to run.", min=1.0)] = 30.0,
    dtype: engine.Dtype = "auto",
    quantization: engine.Quantization = None,
    kv_cache_dtype: engine.KvCacheDtype = "auto",
    cpu_backend: engine.CpuBackend = "auto",
    block_size: engine.BlockSize = None,
    max_num_batched_tokens: engine.MaxNumBatchedTokens = 512,
    max_model_len: engine.MaxModelLen = None,
    num_threads: engine.NumThreads = None,
) -> None:
    """Run a model through batches of all shapes and fit a cost model to their steps."""
    require_packages("flowserve calibrate")
    from .calibration import calibration_steps
    from .config import EngineConfig
    from .cost_model import check_place, error_table, fit
    from .engine import Engine
    from .processor import processor_name

    if out is not None:
        check_place(out)
    config = EngineConfig(
        dtype=dtype,
        quantization=quantization,
        kv_cache_dtype=kv_cache_dtype,
        cpu_backend=cpu_backend,
        block_size=block_size,
        max_model_len=max_model_len,
        max_num_batched_tokens=max_num_batched_tokens,
        num_threads=num_threads,
        enable_prefix_caching=False,
        target_step_ms=0.0,
        step_log=True if log is None else log,
    )
    running = Engine.from_folder(model, config)
    try:
        assert running.step_log is not None
        fitted = fit(calibration_steps(running, seconds), running.step_log.setting)
        fitted = msgspec.structs.replace(fitted, hardware=f"{os.cpu_count()} x {processor_name()}")
    finally:
        running.close()
    if out is not None:
        fitted.save(out)
    print(error_table(fitted))
