"""Products of quantised weights by each of torch's operators against the numbers that the weights stand for."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from flowserve.device.cpu_torch.matrices import KERNELS, Matrix
from flowserve.device.cpu_torch.quantization import GROUP, quantize_groups, quantize_rows
from flowserve.device.cpu_torch.self_test import RandomWeight, candidates

ERROR = {"float32": 1e-5, "int8": 0.03, "int4": 0.15}


@pytest.fixture(autouse=True, scope="module")
def _one_thread() -> None:
    torch.set_num_threads(1)


class Given(RandomWeight):
    """Weights of a test."""

    def __init__(self, values: torch.Tensor) -> None:
        self.values = values


def _random(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def _working(kind: str, weight: RandomWeight, bias: torch.Tensor | None = None) -> dict[str, Matrix]:
    """All kernels that this processor has for such a weight."""
    return {
        choice.kernel: KERNELS[kind][choice.kernel](weight, bias, careful=choice.careful)
        for choice, _ in candidates(kind, RandomWeight(*weight.shape))
    }


@pytest.mark.parametrize("kind", KERNELS)
@settings(max_examples=15, deadline=None, derandomize=True)
@given(n=st.integers(1, 70), k=st.integers(1, 150), rows=st.integers(0, 30), biased=st.booleans())
def test_products_are_near_the_exact_ones(kind: str, n: int, k: int, rows: int, biased: bool) -> None:
    weight, x, bias = _random(n, n, k), _random(k, rows, k), _random(rows, n)
    expected = x @ weight.t() + (bias if biased else 0)
    # One weight has no neighbours to average its rounding with: the error is compared with that of a whole row.
    scale = x.norm(dim=1, keepdim=True) * weight.norm(dim=1) + 1e-6
    for name, matrix in _working(kind, Given(weight), bias if biased else None).items():
        product = matrix(x)
        assert product.dtype is torch.float32 and product.shape == (rows, n), name
        assert rows == 0 or float(((product - expected).abs() / scale).max()) <= ERROR[kind], name


@pytest.mark.parametrize("kind", KERNELS)
def test_one_kernel_works_everywhere(kind: str) -> None:
    last = list(KERNELS[kind])[-1]
    for shape in ((1, 1), (33, 65), (64, 96)):
        assert last in _working(kind, RandomWeight(*shape))


def test_weights_at_the_end_of_their_range_do_not_overflow() -> None:
    """Where processors add pairs of 8-bit products in 16 bits, unmindful kernels lose a tenth of such a sum."""
    weight, x = Given(torch.ones(64, 128)), torch.ones(5, 128)
    for name, matrix in _working("int8", weight).items():
        torch.testing.assert_close(matrix(x), torch.full((5, 64), 128.0), rtol=1e-3, atol=0.0, msg=name)


def test_a_kernel_that_computes_wrongly_is_no_candidate(monkeypatch: pytest.MonkeyPatch) -> None:
    class Wrong:
        def __init__(self, weight: RandomWeight, bias: torch.Tensor | None, *, careful: bool) -> None:
            self._num_rows = weight.shape[0]

        def __call__(self, x: torch.Tensor) -> torch.Tensor:
            return torch.zeros(len(x), self._num_rows)

    class Missing(Wrong):
        def __call__(self, x: torch.Tensor) -> torch.Tensor:
            raise NotImplementedError("no such operator in this build")

    working = [choice.kernel for choice, _ in candidates("int8", RandomWeight(32, 32))]
    monkeypatch.setitem(KERNELS, "int8", {"wrong": Wrong, "missing": Missing, **KERNELS["int8"]})
    assert [choice.kernel for choice, _ in candidates("int8", RandomWeight(32, 32))] == working


def test_int8_products_do_not_depend_on_the_rows_beside_them() -> None:
    x = _random(1, 29, 100) * torch.logspace(-3, 3, 29)[:, None]
    for name, matrix in _working("int8", Given(_random(0, 48, 100))).items():
        if name != "widened":
            together = matrix(x)
            for row in range(29):
                assert torch.equal(matrix(x[row : row + 1])[0], together[row]), name


def test_a_row_of_zeros_stays_zero() -> None:
    for kind in KERNELS:
        weight = _random(0, 32, 64)
        weight[5] = 0
        for name, matrix in _working(kind, Given(weight)).items():
            product = matrix(torch.cat((torch.zeros(1, 64), _random(1, 2, 64))))
            assert not product[0].any() and not product[:, 5].any() and product.isfinite().all(), (kind, name)


def test_rounding_is_to_the_nearest() -> None:
    weight = _random(3, 40, 70)
    for levels in (127, 64):
        values, scales = quantize_rows(Given(weight), levels)
        assert int(values.abs().max()) == levels
        assert ((values * scales[:, None] - weight).abs() <= scales[:, None] * 0.5001).all()
    values, scales = quantize_groups(Given(weight))
    assert values.shape == (40, 96) and scales.shape == (40, 3) and int(values.max()) <= 15
    stored = ((values.float() - 8) * scales.float().repeat_interleave(GROUP, dim=1))[:, :70]
    largest = torch.nn.functional.pad(weight, (0, 26)).view(40, 3, GROUP).abs().amax(dim=2)
    assert ((stored - weight).abs() <= (largest * 1.02 / 8).repeat_interleave(GROUP, dim=1)[:, :70]).all()
