"""Resume from tokens: a sequence that was begun elsewhere goes on where its tokens leave off.

Whatever a sequence knows follows from its tokens: penalties, grammar, characters and stop strings half read, and, with
the seed, the place in the draws. So its state never travels; the tokens do, and are read again. Preemption, a lost
process and a move to another engine are the same thing.
"""

from __future__ import annotations

from collections.abc import Sequence as Tokens
from typing import TYPE_CHECKING

from .errors import InvalidRequestError
from .outputs import SequenceOutput
from .sequence import Sequence, SequenceStatus
from .sequence_stream import SequenceStream
from .sequence_text import Text
from .structured import GrammarMatcher

if TYPE_CHECKING:
    from .intake import Prepared


def replay(
    output_ids: Tokens[int],
    text: Text,
    grammar: GrammarMatcher | None,
    end_token_ids: frozenset[int],
    max_tokens: int,
) -> str | None:
    """Read tokens as if they had just been sampled; why the sequence is over behind them, None where it goes on.

    Raises InvalidRequestError where no sequence of this request can have put them out: they go on behind their end, or
    break the grammar.
    """
    last = len(output_ids) - 1
    for index, token_id in enumerate(output_ids):
        is_over = token_id in end_token_ids or text.push(token_id)
        if grammar is not None:
            grammar.accept(token_id)
            if grammar.error is not None:
                raise InvalidRequestError(f"output_ids break the grammar at token {index}: {grammar.error}")
            is_over = is_over or (index == last and grammar.is_done)
        if is_over and index < last:
            raise InvalidRequestError(f"output_ids go on behind token {index}, which ends the sequence")
        if is_over:
            return "stop"
    if len(output_ids) > max_tokens:
        raise InvalidRequestError(f"output_ids are {len(output_ids)} tokens, and the sequence may have {max_tokens}")
    return "length" if len(output_ids) == max_tokens else None


class Resumed:
    """The first outputs of resumed sequences, for the next step to give: the text of their tokens, and no token.

    One that is over already never enters the scheduler: this output is its last.
    """

    def __init__(self) -> None:
        self._outputs: list[SequenceOutput] = []

    def __len__(self) -> int:
        return len(self._outputs)

    def note(self, stream: SequenceStream) -> None:
        self._outputs.append(stream.output([]))

    def note_over(self, request_id: str, index: int, prepared: Prepared, text: Text, reason: str) -> None:
        tokens, num_prompt = prepared.prompt_ids + prepared.output_ids, len(prepared.prompt_ids)
        sequence = Sequence(request_id, tokens, num_prompt, len(prepared.output_ids), arrival=-1)
        sequence.status, sequence.finish_reason = SequenceStatus.FINISHED, reason
        self.note(SequenceStream(sequence, text, frozenset(), request_id, index))

    def drop(self, request_id: str) -> None:
        self._outputs = [output for output in self._outputs if output.sequence_id != request_id]

    def take(self, requests: dict[str, set[str]]) -> list[SequenceOutput]:
        """All of them, first completions first; of requests of which none goes on nothing is left in `requests`."""
        if not self._outputs:
            return []
        outputs, self._outputs = sorted(self._outputs, key=lambda output: output.index), []
        for output in outputs:
            if output.finished and not requests.get(output.sequence_id, True):
                del requests[output.sequence_id]
        return outputs
