"""What no engine could beat on a machine whose memory and multiplications are as fast as measured."""

from __future__ import annotations

from dataclasses import dataclass

from .scripts.measuring import Work
from .shapes import Shape

BYTES_PER_PARAMETER = {"fp32": 4.0, "int8": 1.0, "int4": 0.5625}
"""int4: 4 bits, and 16 for each 32 of them."""


@dataclass(frozen=True)
class Limits:
    """read_gbs: GB/s that all cores together read, by MB that they read again and again.

    fp32_gflops, int8_gflops: of matrix products of 512 rows.
    """

    read_gbs: dict[int, float]
    fp32_gflops: float
    int8_gflops: float

    def reading_s(self, megabytes: float) -> float:
        """Of weights, at the rate of the largest size that is not larger, or of one beyond if that was faster."""
        size = max((size for size in self.read_gbs if size <= megabytes), default=min(self.read_gbs))
        return megabytes / 1e3 / max(gbs for each, gbs in self.read_gbs.items() if each >= size)


def weight_mb(shape: Shape, precision: str) -> float:
    return shape.parameters * BYTES_PER_PARAMETER[precision] / 1e6


def bound(shape: Shape, figure: str, work: Work, precision: str, limits: Limits) -> float | None:
    """Of a figure in its unit; None where there is none to work out.

    A step reads every weight once and multiplies it with each row; a prompt's tokens are multiplied with the layers
    alone, and attend to those before them in float32. Nothing else counts.
    """
    rate = limits.fp32_gflops if precision == "fp32" else max(limits.fp32_gflops, limits.int8_gflops)
    read_s = limits.reading_s(weight_mb(shape, precision))

    def step_s(rows: int) -> float:
        return max(read_s, 2e-9 * shape.parameters * rows / rate)

    def prefill_s(tokens: int, attended: float) -> float:
        """attended: tokens before, on average."""
        attention = 4e-9 * shape.num_layers * shape.num_heads * shape.head_dim * tokens * attended
        return max(read_s, 2e-9 * shape.layer_parameters * tokens / rate + attention / limits.fp32_gflops)

    alone_s = prefill_s(work.own, work.own / 2)
    all_steps_s = (work.num_out - 1) * step_s(work.num)
    own = work.num * work.own
    if figure == "one":
        return 1 / step_s(1)
    if figure == "first":
        return alone_s * 1e3
    if figure == "prompt":
        return work.own / alone_s
    if figure == "sixteen":
        return work.num * work.num_out / (prefill_s(own, work.own / 2) + all_steps_s)
    warm_s = prefill_s(own, work.shared + work.own / 2) + all_steps_s
    if figure == "shared warm":
        return warm_s
    if figure == "shared cold":
        return prefill_s(work.shared, work.shared / 2) + warm_s
    return None
