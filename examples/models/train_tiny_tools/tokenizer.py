"""The tokenizer: byte-level BPE whose words never hold the space or quote before them.

A module's name must have the same tokens in a question, in quotes and in an answer, or a small model cannot copy it. So
letters, digits and everything else are split apart; only common words that nobody copies take their space along, and
the fixed phrases of tool schemas are words of their own, which more than halves the length of a schema.
"""

from __future__ import annotations

import re

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

from .dialogues import dialogue
from .template import prompt

SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
TAGS = ("<tool_call>", "</tool_call>", "<tool_response>", "</tool_response>", "<tools>", "</tools>")
VOCABULARY = 2048

_COMMON = """a about all an and answer are as at by call can do does each for from gives has have how if in into
is it its lines many me module name no not number of on one or runs starts that the them then there they this to
two use what when which with without you your
""".split()
_SCHEMA = (
    '{"type": "function", "function": {"name": "',
    '", "description": "',
    '", "parameters": {"type": "object", "properties": {"',
    '", "parameters": {"type": "object", "properties": {',
    '": {"type": "string", "description": "',
    '": {"type": "integer", "description": "',
    '": {"type": "number", "description": "',
    '": {"type": "string"',
    '": {"type": "integer"',
    '": {"type": "number"',
    '"}}, "required": ["',
    '}}, "required": ["',
    '", "arguments": {"',
    '{"name": "',
)
_PHRASES = "|".join(re.escape(phrase) for phrase in _SCHEMA)
_SPLIT = "|".join(
    [
        _PHRASES,
        f" (?:{'|'.join(sorted(_COMMON, key=len, reverse=True))})(?![\\p{{L}}\\p{{M}}\\p{{N}}_.])",
        r"[\p{L}\p{M}]+",
        r"\p{N}",
        r"\n",
        # A run of other characters ends where one of the phrases above would begin.
        rf"[^\p{{L}}\p{{M}}\p{{N}}\n]+?(?={_PHRASES})",
        r"[^\p{L}\p{M}\p{N}\n]+",
    ]
)


def train_tokenizer(dialogues: int = 6000) -> Tokenizer:
    """Trains it on generated dialogues."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_SPLIT), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY - len(TAGS),
        special_tokens=list(SPECIAL),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    texts = (_text(number) for number in range(dialogues))
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.add_tokens([AddedToken(tag, normalized=False, special=False) for tag in TAGS])
    return tokenizer


def _text(number: int) -> str:
    made = dialogue(f"tokenizer {number}", heldout=False)
    text = prompt(made.messages(), made.tools)
    # Tags are tokens of their own, so they must not shape the merges.
    for tag in (*SPECIAL, *TAGS):
        text = text.replace(tag, "\n")
    return text
