"""What /tokenize and /detokenize answer, for models of every kind."""

from __future__ import annotations

from collections.abc import Sequence

from starlette.responses import JSONResponse, Response

from ..tokenizer import Tokenizer
from .api_error import invalid


def tokenized(tokenizer: Tokenizer, token_ids: Sequence[int], max_model_len: int, with_texts: bool) -> Response:
    """max_model_len: tokens that the model takes.  with_texts: each token as the vocabulary spells it, too."""
    return JSONResponse(
        {
            "count": len(token_ids),
            "max_model_len": max_model_len,
            "tokens": token_ids,
            "token_strs": [tokenizer.token(token_id) for token_id in token_ids] if with_texts else None,
        }
    )


def detokenized(tokenizer: Tokenizer, token_ids: Sequence[int]) -> Response:
    """Raises ApiError for an id that the model does not have."""
    unknown = [token_id for token_id in token_ids if tokenizer.token(token_id) is None]
    if unknown:
        raise invalid(f"{unknown[0]} is no token id of this model", "tokens")
    return JSONResponse({"prompt": tokenizer.decode(token_ids, skip_special_tokens=False)})
