"""ParamsCompiler: what is made of a request's parameters before it begins: its grammar, bad words and stop strings."""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache, partial

from .sampling_params import SamplingParams
from .stop_strings import StopStrings, stop_strings
from .structured import GrammarCompiler, GrammarMatcher
from .tokenizer import Tokenizer
from .worker.constraints import BadWordTable

LONG_CHARACTERS = 1000
"""Bad words and stop strings of so many characters take milliseconds: a tenth of a second at their limits."""


@dataclass(frozen=True, slots=True)
class Compiled:
    """For all completions of a request. None = not asked for."""

    grammar: GrammarMatcher | None = None
    bad_words: BadWordTable | None = None
    stop: StopStrings | None = None


class ParamsCompiler:
    """Compiles for one tokenizer, in any thread."""

    def __init__(self, tokenizer: Tokenizer, grammars: GrammarCompiler) -> None:
        self._grammars = grammars
        self._bad_words = lru_cache(maxsize=8)(partial(_bad_words, tokenizer))
        self._thread = ThreadPoolExecutor(1, "flowserve-compiler")  # which the first long one starts

    def submit(self, params: SamplingParams) -> Future[Compiled] | None:
        """Compile in a thread, behind those that were submitted before and not cancelled, for whoever has others to
        serve meanwhile. The result is that of `compile`, or its error. None where it takes no time worth mentioning."""
        if params.structured_outputs is None and sum(map(len, (*params.stop, *params.bad_words))) < LONG_CHARACTERS:
            return None
        return self._thread.submit(self.compile, params)

    def compile(self, params: SamplingParams) -> Compiled:
        """Raises InvalidGrammarError or TokenizerError."""
        return Compiled(
            None if params.structured_outputs is None else self._grammars.compile(params.structured_outputs),
            self._bad_words(tuple(params.bad_words)) if params.bad_words else None,
            stop_strings(tuple(params.stop)) if params.stop else None,
        )

    def close(self) -> None:
        """Cancel what has not begun. May be called again; nothing may be submitted any more."""
        self._thread.shutdown(wait=False, cancel_futures=True)


def _bad_words(tokenizer: Tokenizer, words: tuple[str, ...]) -> BadWordTable:
    """As they begin a text and as they follow one, in the tokenizer's own writing."""
    found: dict[tuple[int, ...], None] = {}
    for word in words:
        bare = word.lstrip(" ")
        for text in (bare, " " + bare):
            if ids := tuple(tokenizer.encode(text, add_special_tokens=False)):
                found[ids] = None
    return BadWordTable(found)
