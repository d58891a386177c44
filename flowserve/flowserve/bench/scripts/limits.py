"""What the machine can do: bytes read a second and multiplications, by torch on all cores."""

import time

from measuring import NUM_CORES, READ_MB, arguments, quiet_stdout, quietly, say

quiet_stdout()
given = arguments()
import torch  # noqa: E402

torch.set_num_threads(NUM_CORES)
MEASURE_S = 0.05 if given.quick else 0.5


def rate(work, amount):
    """Of the fastest of the calls that fit in MEASURE_S, after one that warms up."""
    work()
    fastest_s, end_s = float("inf"), time.perf_counter() + MEASURE_S
    while time.perf_counter() < end_s:
        start_s = time.perf_counter()
        work()
        fastest_s = min(fastest_s, time.perf_counter() - start_s)
    return amount / fastest_s


def measured(work, unit, do, amount):
    value, foreign = quietly(lambda: rate(do, amount))
    say(work=work, unit=unit, value=value, foreign=foreign)


for megabytes in READ_MB:
    matrix, vector = torch.ones((megabytes << 20) // 4 // 4096, 4096), torch.ones(4096)
    measured(f"read {megabytes}", "GB/s", lambda: torch.mv(matrix, vector), matrix.nbytes / 1e9)  # noqa: B023

m, k, n = (64, 64, 64) if given.quick else (512, 1024, 3072)
operations = 2 * m * k * n / 1e9
x, weight = torch.randn(m, k), torch.randn(n, k)
packed = torch.ops.mkldnn._reorder_linear_weight(weight, m) if torch.backends.mkldnn.is_available() else None
measured("fp32", "GFLOP/s", lambda: torch.nn.functional.linear(x, weight), operations)
if packed is not None:
    pointwise = torch.ops.mkldnn._linear_pointwise
    measured("fp32", "GFLOP/s", lambda: pointwise(x, packed, None, "none", [], ""), operations)

x8, weight8 = torch.ones(m, k, dtype=torch.int8), torch.ones(n, k, dtype=torch.int8)
measured("int8", "GFLOP/s", lambda: torch._int_mm(x8, weight8.t()), operations)
quantized = torch.quantize_per_tensor(weight, 0.1, 0, torch.qint8)
prepacked = torch.ops.quantized.linear_prepack(quantized, None)
measured("int8", "GFLOP/s", lambda: torch.ops.quantized.linear_dynamic(x, prepacked, False), operations)
