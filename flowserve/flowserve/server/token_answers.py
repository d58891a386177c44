"""What /tokenize and /detokenize answer, for models of every kind."""

from __future__ import annotations

from collections.abc import Sequence

from ..tokenizer import Tokenizer
from .api_error import invalid
from .chat_messages import functions_of, template_messages
from .chunks import encode
from .prompts import Prompt
from .requests import TokenizeRequest, check_no_continuation, check_num_tokens
from .served_model import ServedModel


def prompt_to_tokenize(asked: TokenizeRequest, model: ServedModel) -> Prompt:
    """Its text, or its messages as the template writes them. Raises ApiError or ChatTemplateError."""
    model.check_name(asked.model)
    if (asked.prompt is None) == (asked.messages is None):
        raise invalid("give either prompt or messages", "prompt")
    if asked.messages is None:
        return Prompt(asked.prompt or "", asked.add_special_tokens is not False)
    check_no_continuation(asked.continue_final_message)
    functions_of(asked.tools or [])
    variables = {
        **(asked.chat_template_kwargs or {}),
        "add_generation_prompt": asked.add_generation_prompt is not False,
    }
    text = model.render(template_messages(asked.messages), asked.tools, variables)
    return Prompt(text, bool(asked.add_special_tokens))


def tokenized(tokenizer: Tokenizer, token_ids: Sequence[int], max_model_len: int, with_texts: bool) -> bytes:
    """As JSON. max_model_len: tokens that the model takes.  with_texts: each token as the vocabulary spells it, too."""
    return encode(
        {
            "count": len(token_ids),
            "max_model_len": max_model_len,
            "tokens": token_ids,
            "token_strs": [tokenizer.token(token_id) for token_id in token_ids] if with_texts else None,
        }
    )


def detokenized(tokenizer: Tokenizer, token_ids: Sequence[int], max_model_len: int) -> bytes:
    """As JSON. Raises ApiError for more tokens than the model takes, and for an id that it does not have."""
    check_num_tokens(token_ids, "tokens", max_model_len)
    unknown = [token_id for token_id in token_ids if tokenizer.token(token_id) is None]
    if unknown:
        raise invalid(f"{unknown[0]} is no token id of this model", "tokens")
    return encode({"prompt": tokenizer.decode(token_ids, skip_special_tokens=False)})
