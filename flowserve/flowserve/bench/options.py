"""Options of one `flowserve bench`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ..errors import InvalidConfigError
from .shapes import SHAPES
from .subjects import WORKS, chosen


@dataclass(frozen=True)
class Options:
    """models: of SHAPES.  works: of WORKS.  who: parts of subjects' names; none = all.  Raises InvalidConfigError.

    rounds: samples of each figure, at most.  minutes: when further rounds leave out what takes long.
    subject_minutes: what one subject may take in one round; it is stopped then, and what it had measured stays.
    peers: the folder of their environments, None for no peers.  is_complete: nobody is spared anything.
    """

    models: tuple[str, ...] = ("small", "tiny")
    works: tuple[str, ...] = WORKS
    who: tuple[str, ...] = ()
    rounds: int = 3
    minutes: float = 15.0
    subject_minutes: float = 5.0
    is_quick: bool = False
    is_complete: bool = False
    peers: Path | None = None

    def __post_init__(self) -> None:
        for what, named, known in (("model", self.models, SHAPES), ("work", self.works, WORKS)):
            for name in named:
                if name not in known:
                    raise InvalidConfigError(f"no {what} {name!r}; there are: {', '.join(known)}")
        if self.rounds < 1:
            raise InvalidConfigError(f"rounds {self.rounds}: at least one is needed")
        for name in ("minutes", "subject_minutes"):
            if not getattr(self, name) > 0:
                raise InvalidConfigError(f"{name} {getattr(self, name)}: no time to measure in")
        list(chosen(self.who, self.peers))

    @property
    def command(self) -> str:
        """With which the run can be repeated."""
        words, usual = ["flowserve bench"], Options()
        for option, name in (("models", "models"), ("only", "works"), ("who", "who")):
            given = getattr(self, name)
            words += [f'--{option} "{",".join(given)}"'] * (given != getattr(usual, name))
        words += [f"--rounds {self.rounds}"] * (self.rounds != usual.rounds and not self.is_quick)
        for name in ("minutes", "subject_minutes"):
            given = getattr(self, name)
            words += [f"--{name.replace('_', '-')} {given:g}"] * (given != getattr(usual, name))
        flags = (("--quick", self.is_quick), ("--complete", self.is_complete), ("--peers", self.peers is not None))
        return " ".join([*words, *(name for name, is_given in flags if is_given)])
