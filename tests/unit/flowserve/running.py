"""Running engines in tests."""

from __future__ import annotations

from typing import Any

ARCHITECTURES = ("llama", "mistral", "phi3", "qwen2", "qwen3")


def run_to_end(engine: Any) -> dict[str, dict[str, Any]]:
    """Step until idle, checking invariants; per sequence its tokens, text and reason."""
    results: dict[str, dict[str, Any]] = {}
    while engine.has_work:
        for output in engine.step():
            result = results.setdefault(output.sequence_id, {"tokens": [], "text": "", "reason": None})
            assert result["reason"] is None, "output after the end"
            result["tokens"] += output.token_ids
            result["text"] += output.text
            result["reason"] = output.finish_reason
            assert output.num_output_tokens == len(result["tokens"])
        engine.check_invariants()
    return results
