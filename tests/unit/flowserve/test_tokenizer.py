"""Text to tokens and back, whole and piece by piece."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer as RustTokenizer
from tokenizers import decoders, pre_tokenizers
from tokenizers import models as rust_models

from flowserve.detokenizer import Detokenizer
from flowserve.errors import ModelNotFoundError, TokenizerError
from flowserve.sequence_text import SequenceText
from flowserve.tokenizer import Tokenizer

TEXTS = [
    "Plain words.",
    "Grüße, Äpfel — naïve façade",
    "你好，世界 こんにちは 안녕하세요",
    "🙂🚀👩‍👩‍👧‍👦🇩🇪 flags and families",
    "מימין לשמאל \u202e mixed \u0301 combining e\u0301",
    "\x00\x7f\t\r\n  spaces   and lines\n\n\n",
    "",
]


@pytest.fixture(scope="session")
def tokenizer(models: Callable[..., Path]) -> Tokenizer:
    return Tokenizer.from_folder(models())


def pieces_of(tokenizer: Tokenizer, token_ids: list[int], prompt_ids: list[int] | None = None) -> list[str]:
    detokenizer = Detokenizer(tokenizer, prompt_ids or [])
    return [*(detokenizer.push(token_id) for token_id in token_ids), detokenizer.flush()]


@pytest.mark.parametrize("text", TEXTS)
def test_round_trip_in_pieces(text: str, tokenizer: Tokenizer) -> None:
    import unicodedata

    token_ids = tokenizer.encode(text)
    pieces = pieces_of(tokenizer, token_ids)
    assert "".join(pieces) == tokenizer.decode(token_ids) == unicodedata.normalize("NFC", text)
    assert not any("\ufffd" in piece for piece in pieces)


def test_a_character_split_over_tokens_comes_whole(tokenizer: Tokenizer) -> None:
    token_ids = tokenizer.encode("👩")
    assert len(token_ids) >= 3
    assert pieces_of(tokenizer, token_ids) == [""] * (len(token_ids) - 1) + ["👩", ""]
    assert pieces_of(tokenizer, token_ids[:-1])[-1] == "\ufffd", "cut off: shown as what it is, at the end only"


@settings(max_examples=300)
@given(token_ids=st.lists(st.integers(0, 420), max_size=60), prompt=st.lists(st.integers(0, 399), max_size=10))
def test_pieces_of_any_tokens_join_to_their_text(tokenizer: Tokenizer, token_ids: list[int], prompt: list[int]) -> None:
    """Also of bytes that are no UTF-8, special tokens, and ids beyond the vocabulary."""
    assert "".join(pieces_of(tokenizer, token_ids)) == tokenizer.decode(token_ids)
    settled = tokenizer.encode("so far. ") if not tokenizer.decode(prompt).isascii() else prompt
    assert "".join(pieces_of(tokenizer, token_ids, settled)) == tokenizer.decode(token_ids)


def test_long_runs_of_broken_bytes_are_not_held_for_ever(tokenizer: Tokenizer) -> None:
    broken = json.loads(tokenizer.to_json())["model"]["vocab"]["ÿ"]  # how byte-level tokenizers write the byte 0xFF
    pieces = pieces_of(tokenizer, [broken] * 200)
    assert "".join(pieces) == "\ufffd" * 200
    assert max(map(len, pieces)) < 20


def test_leading_spaces_depend_on_the_prompt(tmp_path: Path) -> None:
    """A Llama 2 style tokenizer drops the first space of a text, but not of its continuation."""
    vocabulary = {"<unk>": 0, "▁Hello": 1, "▁world": 2, "!": 3, **{f"<0x{byte:02X}>": 4 + byte for byte in range(256)}}
    rust = RustTokenizer(rust_models.BPE(vocabulary, [], byte_fallback=True, unk_token="<unk>"))
    rust.pre_tokenizer = pre_tokenizers.Metaspace()
    rust.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    rust.save(str(tmp_path / "tokenizer.json"))
    tokenizer = Tokenizer.from_folder(tmp_path)
    euro = [4 + byte for byte in "€".encode()]
    assert pieces_of(tokenizer, [1, 2, 3, *euro]) == ["Hello", " world", "!", "", "", "€", ""]
    assert pieces_of(tokenizer, [2, 3], [1]) == [" world", "!", ""]


def test_special_tokens_and_stop_text(tokenizer: Tokenizer) -> None:
    end = tokenizer.token_id("<|im_end|>")
    assert end is not None and tokenizer.token_id("<|nope|>") is None
    assert pieces_of(tokenizer, [end, end]) == ["", "", ""]
    shown = Detokenizer(tokenizer, [], skip_special_tokens=False)
    assert shown.push(end) == "<|im_end|>"


@settings(max_examples=300)
@given(
    text=st.text(st.sampled_from("abé🙂"), max_size=30),
    stops=st.lists(st.text("abé", min_size=1, max_size=4), max_size=3),
)
def test_stop_strings_in_any_text(tokenizer: Tokenizer, text: str, stops: list[str]) -> None:
    sequence_text, shown, stopped = SequenceText(Detokenizer(tokenizer), stops), "", False
    for token_id in tokenizer.encode(text):
        stopped = sequence_text.push(token_id)
        shown += sequence_text.take()
        if stopped:
            break
        assert not any(stop in shown for stop in stops), "part of a stop string got out"
    sequence_text.finish()
    shown += sequence_text.take()
    hits = [text.index(stop) for stop in stops if stop in text]
    assert stopped == bool(hits)
    if not hits:
        assert shown == text
    else:
        assert text.startswith(shown) and any(text[len(shown) :].startswith(stop) for stop in stops)


def test_eos_token_ids(models: Callable[..., Path], tmp_path: Path) -> None:
    shutil.copytree(models(), tmp_path, dirs_exist_ok=True)
    end, text_end = (Tokenizer.from_folder(tmp_path).token_id(name) for name in ("<|im_end|>", "<|endoftext|>"))
    assert Tokenizer.from_folder(tmp_path).eos_token_ids == (end, text_end), "generation_config.json first"
    (tmp_path / "generation_config.json").unlink()
    assert Tokenizer.from_folder(tmp_path).eos_token_ids == (end,), "then config.json"
    (tmp_path / "config.json").unlink()
    assert Tokenizer.from_folder(tmp_path).eos_token_ids == (end,), "then the tokenizer's own"
    (tmp_path / "tokenizer_config.json").unlink()
    assert Tokenizer.from_folder(tmp_path).eos_token_ids == ()


def test_missing_and_broken(models: Callable[..., Path], tmp_path: Path) -> None:
    with pytest.raises(ModelNotFoundError, match="nowhere"):
        Tokenizer.from_folder(tmp_path / "nowhere")
    with pytest.raises(TokenizerError, match="no tokenizer.json"):
        Tokenizer.from_folder(tmp_path)
    whole = (models() / "tokenizer.json").read_text()
    for text in ("", "{}", whole[: len(whole) // 2]):
        (tmp_path / "tokenizer.json").write_text(text)
        with pytest.raises(TokenizerError, match="tokenizer.json"):
            Tokenizer.from_folder(tmp_path)


def test_padding_and_truncation_left_in_the_file_are_ignored(models: Callable[..., Path], tmp_path: Path) -> None:
    rust = RustTokenizer.from_file(str(models() / "tokenizer.json"))
    rust.enable_truncation(3)
    rust.enable_padding(length=10)
    rust.save(str(tmp_path / "tokenizer.json"))
    text = "".join(random.Random(0).choices("abc ", k=50))
    assert Tokenizer.from_folder(tmp_path).encode(text) == Tokenizer.from_folder(models()).encode(text)
