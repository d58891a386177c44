"""What a tokenizer tells the controller of a prompt, so that it can be routed."""

from __future__ import annotations

from deepserve.protocol.prompt_blocks import BLOCK_TOKENS, PromptBlocks, pack
from deepserve_runtime.executors.flowserve_parts import block_hashes


def prompt_blocks(token_ids: list[int], salt: str | None = None, num_tokens: int = 0) -> PromptBlocks:
    """Of a request's first prompt, by whose beginning it is routed. `num_tokens`: of all its prompts, where there are
    several. `salt`: the tenant's, whose cache is its own."""
    return PromptBlocks(num_tokens or len(token_ids), pack(block_hashes(token_ids, BLOCK_TOKENS, salt)))
