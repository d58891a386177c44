"""StepPace: what a step takes, by what steps of all sizes took. Pure: the times are given.

Stall-free batching bounds a step's tokens (Sarathi-Serve, OSDI 2024, section 4.3), by a number that fits one model on
one device. Here the bound is a time, and the number follows from what is learned of both.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable

from ..least_squares import non_negative_fit
from .step_room import StepRoom

MOST_FOR_FIXED = 8
"""What a step takes beside its tokens, such as reading the weights, is at most so much of it: one part of 8."""
MAX_LEFT_OUT = 8
"""Steps in a row that may leave sequences out."""

_LATEST = 3  # steps of each magnitude that count
_FIT_AFTER = 8  # new ones


class StepPace:
    """A step's time: a fixed part, and one for each token of a prompt and each sequence that decodes.

    Fitted to the latest steps of each magnitude, so that steps which are all alike do not make it forget the others.
    """

    def __init__(self, target_s: float) -> None:
        """target_s: what a step with prompts should take; 0 = however long, and there is no `room`."""
        self._target_s = target_s
        self._seen: dict[tuple[int, int], deque[tuple[int, int, float]]] = {}
        self._num_new = 0
        self._fitted: tuple[float, float, float] | None = None
        self._num_stalls = 0

    def note(self, num_prompt_tokens: int, num_decodes: int, seconds: float) -> None:
        """A step was computed in `seconds`."""
        if self._target_s and seconds > 0.0:
            magnitude = num_prompt_tokens.bit_length(), num_decodes.bit_length()
            self._seen.setdefault(magnitude, deque(maxlen=_LATEST)).append((num_prompt_tokens, num_decodes, seconds))
            self._num_new += 1

    def room(self, decoding: Iterable[int]) -> StepRoom | None:
        """For a step that others wait for. decoding: as in StepRoom, their priorities.  None: too little is known."""
        if self._num_new >= _FIT_AFTER:
            self._num_new = 0
            self._fitted = self._fit()
        if self._fitted is None:
            return None
        fixed_s, prompt_token_s, decode_s = self._fitted
        return StepRoom(
            left_s=self._target_s - fixed_s,
            prompts_left_s=(MOST_FOR_FIXED - 1) * fixed_s,
            prompt_token_s=prompt_token_s,
            decode_s=decode_s,
            decoding=Counter(decoding),
            may_leave_out=self._num_stalls < MAX_LEFT_OUT,
        )

    def planned(self, room: StepRoom | None) -> None:
        """A step is planned, with that room."""
        self._num_stalls = self._num_stalls + 1 if room is not None and room.has_left_out else 0

    def _fit(self) -> tuple[float, float, float] | None:
        """Seconds of the fixed part, of a prompt's token and of a decode. Relative errors count, as in a CostModel."""
        steps = [step for latest in self._seen.values() for step in latest]
        rows = (((1.0 / seconds, prompt / seconds, decodes / seconds), 1.0) for prompt, decodes, seconds in steps)
        fixed_s, prompt_token_s, decode_s = non_negative_fit(rows, 3)
        return (fixed_s, prompt_token_s, decode_s) if prompt_token_s > 0.0 else None
