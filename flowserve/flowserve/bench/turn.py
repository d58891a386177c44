"""A subject's turn in a round: its processes one after the other, within its time, and the samples that they give."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from ..cache_folder import cache_folder
from .processes import Said, SubjectFailedError, run_alone
from .rounds import Sample
from .scripts.measuring import busy_s
from .subjects import OWN_PROCESS, SCRIPTS, Subject


@dataclass(frozen=True)
class Turn:
    """works: those of the subject's that are wanted.  words: what each of its scripts gets.  number: of the round.

    limit_s: of all its processes together.
    """

    subject: Subject
    works: list[str]
    python: str
    words: list[str]
    number: int
    limit_s: float

    def samples(self) -> Iterator[Sample]:
        """Without labels, each as soon as its process has ended. Raises SubjectFailedError, after those there were."""
        end_s = time.monotonic() + self.limit_s
        standing = [work for work in self.works if work not in OWN_PROCESS]
        if standing:  # first: it also brings what a fresh process reads into the page cache
            yield from self._standing(standing, end_s)
        if "fresh" in self.works:
            if not standing:
                self._run(end_s)
            yield from self._fresh(end_s)
            if self.number == 0:
                base = run_alone([self.python, str(SCRIPTS / "base.py"), self.subject.library], self._left_s(end_s))
                yield from base.lines
            if self.subject.is_ours:
                yield from self._run(end_s, "forked.py").lines
                if self.number == 0 and "torch" not in self.subject.options:
                    yield from self._packing(end_s)
        if "sleep" in self.works:
            yield from self._run(end_s, "sleeping.py").lines
        if "cost" in self.works and self.number == 0:
            yield from self._run(end_s, "cost.py").lines

    def _left_s(self, end_s: float) -> float:
        return max(0.0, end_s - time.monotonic())

    def _run(self, end_s: float, script: str = "", *more: str, variables: Mapping[str, str] = {}) -> Said:
        """One process. script: another than the subject's own."""
        name = script or self.subject.script
        try:
            return run_alone(
                [self.python, str(SCRIPTS / name), *self.words, *more], self._left_s(end_s), variables=variables
            )
        except SubjectFailedError as error:
            if time.monotonic() < end_s:
                raise
            text = f"{name}: stopped after {self.limit_s / 60:g} minutes for all works (--subject-minutes)"
            raise SubjectFailedError(text, error.lines) from None

    def _standing(self, works: list[str], end_s: float) -> Iterator[Sample]:
        """Works that one process does, one after the other; who breaks in one has done those before it."""
        failure: SubjectFailedError | None = None
        try:
            lines = self._run(end_s, "", "--works", ",".join(works)).lines
        except SubjectFailedError as error:
            lines, failure = error.lines, error
        for line in lines:
            if "work" in line and (line["work"] != "memory" or "sixteen" in works):
                yield line
        if failure is not None:
            raise failure

    def _packing(self, end_s: float) -> Iterator[Sample]:
        """Of a process that finds the kernels compiled, and no packed weights."""
        cache_folder().mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(prefix="bench-", dir=cache_folder()) as folder:
            Path(folder, "kernels").symlink_to(cache_folder() / "kernels")
            fresh, loading, _ = self._fresh(end_s, {"FLOWSERVE_CACHE": folder})
        yield fresh | {"work": "packing"}
        yield loading | {"work": "packing memory"}

    def _fresh(self, end_s: float, variables: Mapping[str, str] = {}) -> list[Sample]:
        """From the start of the process to the first token; and its memory."""
        before_s = busy_s()
        said = self._run(end_s, variables=variables)
        [line] = said.lines
        took_s = line["first_token_s"] - said.start_s
        foreign = max(0.0, (line["busy_s"] - before_s - line["cpu_s"]) / took_s)
        return [
            {"work": "fresh", "unit": "s", "value": took_s, "foreign": foreign},
            {"work": "loading", "unit": "MB", "value": line["peak_mb"], "foreign": 0.0},
            {"work": "loaded", "unit": "MB", "value": line["mb"], "foreign": 0.0},
        ]
