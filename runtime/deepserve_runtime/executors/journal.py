"""Journal: what the completions of a request have put out, as it leaves their pod, so that another can go on."""

from __future__ import annotations

import secrets
import struct
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b

from deepserve_runtime.executors.flowserve_parts import TokenLogprobs

TIME_BYTES = 4
NONCE_BYTES = 12
KIND_BITS = 3
NUMBER_BITS = 32 - KIND_BITS
COMPLETION, PLACE, LOGPROBS, PROMPT_LOGPROBS = range(1 << (KIND_BITS - 1), 1 << KIND_BITS)
"""Words above the token ids say what follows: tokens of another completion; nothing, their number is where the answer
is; one token with its log probabilities; so many of the prompt's tokens with theirs."""

_WORD = struct.Struct("=I")  # in the order of the machine; the hosts of one controller are of one kind
_TOKEN = struct.Struct("=IdI")  # id, log probability, how many likely ones
_LIKELY = struct.Struct("=Id")


@dataclass(slots=True)
class Written:
    """What one completion has put out. logprobs: one for each token, or none.  prompt_logprobs: of the first completion
    of a prompt, where they were asked for."""

    token_ids: list[int] = field(default_factory=list)
    logprobs: list[TokenLogprobs] = field(default_factory=list)
    prompt_logprobs: tuple[TokenLogprobs, ...] | None = None


class Journal:
    """As bytes: a nonce, then words of four: a token id each, of completion 0 unless one of COMPLETION says otherwise.

    The nonce is what else an answer has that does not follow from its tokens: when it began, the seed where none was
    asked for, and all ids in it, which the caller may have got from an earlier attempt.

    data: what earlier attempts have said; empty for the first. The controller puts together what it is told.
    """

    def __init__(self, data: bytes = b"") -> None:
        self.nonce = data[:NONCE_BYTES] or new_nonce()
        self.written: dict[int, Written] = {}
        """Of earlier attempts, by completion: those of the first prompt, those of the second, and so on."""
        self.place = 0
        """Of earlier attempts: see `take`."""
        self._completion = 0
        self._read(data)
        self._is_begun = bool(data)
        self._unsaid = bytearray()
        self._told_place = self.place
        self.num_unsaid = 0
        """Tokens."""

    @property
    def token_ids(self) -> list[int]:
        """Of earlier attempts, of the only completion."""
        return self.outputs()[0]

    @property
    def seed(self) -> int:
        return int.from_bytes(self.nonce[TIME_BYTES:], "little") >> 1

    @property
    def created_s(self) -> int:
        """Since 1970."""
        return int.from_bytes(self.nonce[:TIME_BYTES], "little")

    def outputs(self, first: int = 0, count: int = 1) -> list[list[int]]:
        """Tokens of earlier attempts of `count` completions."""
        return [self.written[index].token_ids if index in self.written else [] for index in range(first, first + count)]

    def call_id(self, number: int, completion: int = 0) -> str:
        """Of a completion's tool call `number`, the same in each attempt."""
        return f"call_{blake2b(self.nonce + struct.pack('<II', number, completion), digest_size=8).hexdigest()}"

    def answer_id(self) -> str:
        """24 hexadecimal digits."""
        return blake2b(self.nonce, digest_size=12).hexdigest()

    def add(
        self,
        token_ids: Iterable[int],
        completion: int = 0,
        logprobs: Sequence[TokenLogprobs] = (),
        prompt_logprobs: Sequence[TokenLogprobs] | None = None,
    ) -> None:
        """logprobs: of all of these tokens, or none."""
        token_ids = list(token_ids)
        if completion != self._completion:
            self._say(COMPLETION, completion)
            self._completion = completion
        if prompt_logprobs is not None:
            self._say(PROMPT_LOGPROBS, len(prompt_logprobs))
            for each in prompt_logprobs:
                self._unsaid += _packed(each)
        for each in logprobs:
            self._say(LOGPROBS, 1)
            self._unsaid += _packed(each)
        for token_id in token_ids if not logprobs else ():
            self._unsaid += _WORD.pack(token_id)
        self.num_unsaid += len(token_ids)

    def take(self, place: int = 0) -> bytes:
        """What is new since the last time, at first the nonce; it must travel with everything that follows from it.

        place: where the answer is, as far as its tokens do not tell.
        """
        if place != self._told_place:
            self._say(PLACE, place)
            self._told_place = place
        if not self._unsaid and self._is_begun:
            return b""
        data = bytes(self._unsaid) if self._is_begun else self.nonce + self._unsaid
        self._is_begun = True
        self._unsaid.clear()
        self.num_unsaid = 0
        return data

    def _say(self, kind: int, number: int) -> None:
        self._unsaid += _WORD.pack(kind << NUMBER_BITS | number)

    def _read(self, data: bytes) -> None:
        at = NONCE_BYTES
        while at < len(data):
            (word,) = _WORD.unpack_from(data, at)
            at += _WORD.size
            kind, number = word >> NUMBER_BITS, word & ((1 << NUMBER_BITS) - 1)
            if kind == COMPLETION:
                self._completion = number
            elif kind == PLACE:
                self.place = number
            elif kind in (LOGPROBS, PROMPT_LOGPROBS):
                at = self._read_logprobs(data, at, kind, number)
            else:
                self._now.token_ids.append(word)

    def _read_logprobs(self, data: bytes, at: int, kind: int, count: int) -> int:
        entries = []
        for _ in range(count):
            entry, at = _unpacked(data, at)
            entries.append(entry)
        if kind == PROMPT_LOGPROBS:
            self._now.prompt_logprobs = tuple(entries)
        else:
            self._now.logprobs += entries
            self._now.token_ids += [entry.token_id for entry in entries]
        return at

    @property
    def _now(self) -> Written:
        return self.written.setdefault(self._completion, Written())


def _packed(entry: TokenLogprobs) -> bytes:
    likely = b"".join([_LIKELY.pack(token_id, logprob) for token_id, logprob in entry.top])
    return _TOKEN.pack(entry.token_id, entry.logprob, len(entry.top)) + likely


def _unpacked(data: bytes, at: int) -> tuple[TokenLogprobs, int]:
    """And where it ends."""
    token_id, logprob, count = _TOKEN.unpack_from(data, at)
    at += _TOKEN.size
    end = at + count * _LIKELY.size
    return TokenLogprobs(token_id, logprob, tuple(_LIKELY.iter_unpack(data[at:end]))), end


def new_nonce() -> bytes:
    return int(time.time()).to_bytes(TIME_BYTES, "little") + secrets.token_bytes(NONCE_BYTES - TIME_BYTES)
