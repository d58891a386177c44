"""PodUse: how many of a function's pods were in use, over time."""

from __future__ import annotations

from collections import deque

import msgspec

NUM_PIECES = 60


class Piece(msgspec.Struct):
    """A stretch of time: pods in use integrated over it, and the most at once."""

    start_s: float
    end_s: float
    pod_s: float
    most: int


class PodUse(msgspec.Struct, eq=False):
    """A step function of time, coarser the longer it must reach back: noting a step costs the same for ever.

    Short steps are merged into pieces of `keep_s` / NUM_PIECES; a step longer than that stays exact.
    """

    keep_s: float
    pods: int = 0
    """In use since `since_s`."""
    since_s: float = 0.0
    pieces: deque[Piece] = msgspec.field(default_factory=deque)

    def note(self, pods: int, now_s: float) -> None:
        """From now on so many are in use. Twice in every warm call."""
        if pods == self.pods:
            return
        length_s = now_s - self.since_s
        last = self.pieces[-1] if self.pieces else None
        if last is not None and 0.0 < length_s and now_s - last.start_s <= self.keep_s / NUM_PIECES:
            last.end_s = now_s
            last.pod_s += self.pods * length_s
            if self.pods > last.most:
                last.most = self.pods
            self.since_s = now_s
        else:
            self._close(now_s, length_s)
        self.pods = pods

    def average(self, window_s: float, now_s: float) -> float:
        """Pods in use on average over the last `window_s`; what was before the first note counts as none."""
        if window_s <= 0.0:
            return float(self.pods)
        start_s = now_s - window_s
        pod_s = self.pods * (now_s - max(self.since_s, start_s))
        for piece in reversed(self.pieces):
            if piece.end_s <= start_s:
                break
            share = (piece.end_s - max(piece.start_s, start_s)) / (piece.end_s - piece.start_s)
            pod_s += piece.pod_s * share
        return max(0.0, pod_s) / window_s

    def most(self, window_s: float, now_s: float) -> int:
        """The most that were in use at once within the last `window_s`; a little longer ago counts too."""
        most = self.pods
        for piece in reversed(self.pieces):
            if piece.end_s <= now_s - window_s:
                break
            most = max(most, piece.most)
        return most

    def _close(self, now_s: float, length_s: float) -> None:
        """The step that lasted until now becomes a piece of its own."""
        if length_s <= 0.0:
            if self.pieces:
                self.pieces[-1].most = max(self.pieces[-1].most, self.pods)
            return
        self.pieces.append(Piece(self.since_s, now_s, self.pods * length_s, self.pods))
        while self.pieces[0].end_s < now_s - self.keep_s:
            self.pieces.popleft()
        self.since_s = now_s

    def check_invariants(self) -> None:
        assert self.pods >= 0
        assert len(self.pieces) <= 3 * NUM_PIECES, f"{len(self.pieces)} pieces"
        for before, after in zip(self.pieces, list(self.pieces)[1:], strict=False):
            assert before.end_s == after.start_s, "pieces of time do not join"
