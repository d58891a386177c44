"""CostModel: how long a step takes, fitted from the steps that an engine has logged. Pure.

A step's time is a sum of terms with coefficients that are not negative:

    ms = fixed                            what every step costs: the engine, reading each weight once
       + first_token    · min(tokens, k)  the first k tokens: memory is the limit, so one more costs little
       + further_token  · max(tokens - k, 0)   the others: arithmetic is the limit
       + sequence       · sequences       planning, sampling, texts
       + prefill_pair   · query-key pairs of prompts, which attention multiplies as matrices
       + decode_pair    · query-key pairs of single tokens, for which attention reads the cache
       + logit_row      · rows of logits

k, the knee, is tried out. Relative errors count, so a decode step of 5 ms weighs as much as a prompt's of 500.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import msgspec

from .errors import StepLogError
from .least_squares import non_negative_fit
from .rtc.moves import Tier
from .rtc.rules import CostView
from .step_record import StepRecord, StepSetting, StepWork

TERMS = ("fixed", "first_token", "further_token", "sequence", "prefill_pair", "decode_pair", "logit_row")
KNEES = (1, 2, 4, 8, 16, 32, 64, 128, 256)
MIN_STEPS = 40
MAX_STEPS = 6_000
"""Of a longer log every n-th step is used."""

_HELD_OUT = 5  # one step of so many is not fitted but predicted
_OUTLIER = 4.0  # times the median error: further off are steps that the machine interrupted


class FitError(msgspec.Struct, frozen=True):
    """Of predictions, relative to the times measured: 0.1 = 10 %.

    median, p90: of the absolute errors.  bias: of the sum of all times, above 0 where too much is predicted.
    """

    num_steps: int
    median: float
    p90: float
    bias: float


class CostModel(msgspec.Struct, frozen=True, kw_only=True):
    """Times in milliseconds. coefficients: one for each of TERMS, in ms.

    setting: that of the engine.  error: of steps that were not fitted, "all" and by kind ("decode", "prefill",
    "mixed").  most: of each quantity the largest that was seen: beyond it the model extrapolates.  hardware: on which
    the steps were measured, where that is known.
    """

    coefficients: dict[str, float]
    knee: int
    setting: StepSetting = StepSetting()
    num_steps: int = 0
    error: dict[str, FitError] = {}
    most: dict[str, int] = {}
    hardware: str = ""

    def __post_init__(self) -> None:
        numbers = self.coefficients.values()
        if self.coefficients.keys() != set(TERMS) or not all(0.0 <= number < float("inf") for number in numbers):
            raise ValueError(f"coefficients must be numbers from 0 on for {', '.join(TERMS)}")
        if self.knee < 1:
            raise ValueError(f"knee must be at least 1, got {self.knee}")

    @classmethod
    def load(cls, path: str | Path) -> CostModel:
        """Raises StepLogError for a file that is missing or none that `save` wrote."""
        try:
            return msgspec.json.decode(Path(path).read_bytes(), type=cls)
        except OSError as error:
            raise StepLogError(f"{path}: {error.strerror or error}") from error
        except (msgspec.MsgspecError, ValueError) as error:
            raise StepLogError(f"{path} is no cost model: {error}") from error

    def save(self, path: str | Path) -> None:
        """As JSON. Raises StepLogError."""
        try:
            Path(path).write_bytes(msgspec.json.format(msgspec.json.encode(self), indent=2) + b"\n")
        except OSError as error:
            raise StepLogError(f"{path}: {error.strerror or error}") from error

    def estimate(self, work: StepWork) -> float:
        """Milliseconds of one step."""
        values = _terms(work, self.knee)
        return sum(self.coefficients[name] * value for name, value in zip(TERMS, values, strict=True))

    def covers(self, work: StepWork) -> bool:
        """Whether steps of this size were among those fitted."""
        return all(getattr(work, name) <= most for name, most in self.most.items())

    def decode_ms(self, contexts: Sequence[int]) -> float:
        """One token more for each sequence of a batch. contexts: their lengths in tokens, with that token."""
        return self.estimate(StepWork.of_decodes(contexts, self.setting.window))

    def prefill_ms(self, num_tokens: int, context: int = 0) -> float:
        """A prompt of `num_tokens` behind `context` tokens that are computed, alone, in the engine's chunks."""
        total, end = 0.0, context + num_tokens
        for start in range(context, end, self.setting.chunk):
            chunk = min(self.setting.chunk, end - start)
            is_last = start + chunk == end
            total += self.estimate(StepWork.of_prompt(chunk, start, self.setting.window, is_last=is_last))
        return total

    def cost_view(self, transfer_s_per_block: Mapping[Tier, float]) -> CostView:
        """For the choice between fetching preserved KV and computing it again: `prefill_ms` of a part of a prompt.

        What a full chunk costs beside attention is shared by its tokens.
        """
        chunk, pair_ms = self.setting.chunk, self.coefficients["prefill_pair"]
        chunk_ms = self.estimate(StepWork(prefill_tokens=chunk, num_sequences=1))
        per_token_s, per_pair_s = chunk_ms / chunk / 1000.0, pair_ms / 1000.0
        return CostView(per_token_s, dict(transfer_s_per_block), per_pair_s, self.setting.window)


def fit(records: Sequence[StepRecord], setting: StepSetting | None = None) -> CostModel:
    """Fit a model; its error is that of one step in five, which was left out. Equal records give equal models.

    Raises StepLogError: fewer than MIN_STEPS steps, or steps that are all of the same size, which tell nothing of
    others.
    """
    stride = -(-len(records) // MAX_STEPS) or 1
    usable = [record for record in records[::stride] if record.ms > 0.0]
    if len(usable) < MIN_STEPS:
        raise StepLogError(f"{len(usable)} steps are too few for a cost model: at least {MIN_STEPS} are needed")
    if len({_terms(record, 1) for record in usable}) == 1:
        raise StepLogError(f"all {len(usable)} steps are of the same size: they tell nothing of others")
    fitted, held_out = _split(usable)
    knee, coefficients = _fit_knee(fitted)
    kept = _without_outliers(fitted, knee, coefficients)
    knee, coefficients = _fit_knee(kept)
    model = CostModel(coefficients=dict(zip(TERMS, coefficients, strict=True)), knee=knee)
    return msgspec.structs.replace(
        model,
        setting=setting or StepSetting(),
        num_steps=len(usable),
        error=_errors(model, held_out),
        most={name: max(getattr(record, name) for record in usable) for name in StepWork.__struct_fields__},
    )


def check_place(path: Path) -> None:
    """Before minutes are spent on a model for this file: raises StepLogError where `save` could not write it."""
    if not path.parent.is_dir():
        raise StepLogError(f"{path}: there is no folder {str(path.parent)!r}")
    if path.is_dir() or not os.access(path if path.exists() else path.parent, os.W_OK):
        raise StepLogError(f"{path}: no file can be written there")


def kind_of(work: StepWork) -> str:
    """What its tokens are of: "decode", "prefill" or "mixed"."""
    if not work.prefill_tokens:
        return "decode"
    return "mixed" if work.decode_sequences else "prefill"


def error_table(model: CostModel) -> str:
    """For people: what was found, and how well it predicts."""
    lines = [f"{model.num_steps} steps, one in {_HELD_OUT} predicted; errors relative to the times measured", ""]
    lines += [f"{'steps':10}{'number':>8}{'median':>9}{'p90':>9}{'bias':>9}"]
    for kind, error in model.error.items():
        lines.append(f"{kind:10}{error.num_steps:8}{error.median:9.1%}{error.p90:9.1%}{error.bias:+9.1%}")
    lines += ["", f"{'a step costs':22}{'microseconds':>14}"]
    for name in TERMS:
        label = {"first_token": f"first {model.knee} tokens, each", "further_token": "further token"}.get(name, name)
        lines.append(f"{label.replace('_', ' '):22}{model.coefficients[name] * 1000:14.4g}")
    return "\n".join(lines)


def _terms(work: StepWork, knee: int) -> tuple[float, ...]:
    first = min(work.num_tokens, knee)
    further = work.num_tokens - first
    return 1.0, first, further, work.num_sequences, work.prefill_pairs, work.decode_pairs, work.num_logits


def _split(records: Sequence[StepRecord]) -> tuple[list[StepRecord], list[StepRecord]]:
    """To fit and to predict, chosen by a hash of the place: no rhythm of a log can match it."""
    held_out = [(place * 2654435761 >> 16) % _HELD_OUT == 0 for place in range(len(records))]
    return (
        [record for record, is_out in zip(records, held_out, strict=True) if not is_out],
        [record for record, is_out in zip(records, held_out, strict=True) if is_out],
    )


def _fit_knee(records: Sequence[StepRecord]) -> tuple[int, list[float]]:
    """The knee with the least squared relative error, and its coefficients."""
    best: tuple[float, int, list[float]] | None = None
    for knee in KNEES:
        rows = [[value / record.ms for value in _terms(record, knee)] for record in records]
        coefficients = non_negative_fit(((row, 1.0) for row in rows), len(TERMS))
        loss = sum((_dot(row, coefficients) - 1.0) ** 2 for row in rows)
        if best is None or loss < best[0] * (1.0 - 1e-6):
            best = loss, knee, coefficients
    assert best is not None
    return best[1], best[2]


def _without_outliers(records: Sequence[StepRecord], knee: int, coefficients: Sequence[float]) -> list[StepRecord]:
    """Those near enough to a first fit."""
    errors = [abs(_dot(_terms(record, knee), coefficients) / record.ms - 1.0) for record in records]
    limit = max(_OUTLIER * _quantile(errors, 0.5), 0.02)
    return [record for record, error in zip(records, errors, strict=True) if error <= limit]


def _errors(model: CostModel, records: Sequence[StepRecord]) -> dict[str, FitError]:
    """Of all, and of each kind that is there."""
    groups: dict[str, list[StepRecord]] = {"all": list(records)}
    for kind in ("decode", "prefill", "mixed"):
        if members := [record for record in records if kind_of(record) == kind]:
            groups[kind] = members
    return {kind: _error(model, members) for kind, members in groups.items()}


def _error(model: CostModel, records: Sequence[StepRecord]) -> FitError:
    estimates = [model.estimate(record) for record in records]
    errors = [abs(estimate / record.ms - 1.0) for estimate, record in zip(estimates, records, strict=True)]
    measured = sum(record.ms for record in records)
    return FitError(len(records), _quantile(errors, 0.5), _quantile(errors, 0.9), sum(estimates) / measured - 1.0)


def _quantile(values: Iterable[float], share: float) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def _dot(left: Sequence[float], right: Sequence[float]) -> float:
    return sum(x * y for x, y in zip(left, right, strict=True))
