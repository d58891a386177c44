"""Text to tokens and back, whole and piece by piece."""

from __future__ import annotations

import json
import random
import shutil
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer as RustTokenizer
from tokenizers import decoders, pre_tokenizers
from tokenizers import models as rust_models
from tokenizers.processors import TemplateProcessing

from flowserve.detokenizer import DetokenizerFactory, TableDetokenizer, WindowDetokenizer
from flowserve.errors import InvalidPromptError, ModelNotFoundError, PromptTooLongError, TokenizerError
from flowserve.sequence_text import SequenceText
from flowserve.stop_strings import StopStrings
from flowserve.tokenizer import MAX_CHARS, Tokenizer

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
    detokenizer = DetokenizerFactory(tokenizer).make(prompt_ids or [])
    assert isinstance(detokenizer, TableDetokenizer)
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
    assert "".join(pieces_of(tokenizer, token_ids, prompt)) == tokenizer.decode(token_ids)
    shown = DetokenizerFactory(tokenizer).make(prompt, skip_special_tokens=False)
    pieces = [*(shown.push(token_id) for token_id in token_ids), shown.flush()]
    assert "".join(pieces) == tokenizer.decode(token_ids, skip_special_tokens=False)


@settings(max_examples=300)
@given(token_ids=st.lists(st.integers(0, 420), max_size=60), prompt=st.lists(st.integers(0, 399), max_size=10))
def test_pieces_of_a_decoder_that_is_not_known(tokenizer: Tokenizer, token_ids: list[int], prompt: list[int]) -> None:
    settled = tokenizer.encode("so far. ") if not tokenizer.decode(prompt).isascii() else prompt
    detokenizer = WindowDetokenizer(tokenizer, settled)
    pieces = [*(detokenizer.push(token_id) for token_id in token_ids), detokenizer.flush()]
    assert "".join(pieces) == tokenizer.decode(token_ids)


def test_long_runs_of_broken_bytes_are_not_held_for_ever(tokenizer: Tokenizer) -> None:
    broken = json.loads(tokenizer.to_json())["model"]["vocab"]["ÿ"]  # how byte-level tokenizers write the byte 0xFF
    pieces = pieces_of(tokenizer, [broken] * 200)
    assert "".join(pieces) == "\ufffd" * 200
    assert max(map(len, pieces)) < 20


FIRST_BYTE = 7


def fallback_tokenizer(folder: Path, decoder: decoders.Decoder | None = None) -> Tokenizer:
    """As Llama 2 has it. Other tokens than bytes are the first seven, <s> is special."""
    words = ["<unk>", "▁Hello", "▁world", "!", "<s>", "▁", "ü▁"]
    vocabulary = {word: token_id for token_id, word in enumerate(words)}
    vocabulary |= {f"<0x{byte:02X}>": FIRST_BYTE + byte for byte in range(256)}
    rust = RustTokenizer(rust_models.BPE(vocabulary, [], byte_fallback=True, unk_token="<unk>"))
    rust.add_special_tokens(["<s>"])
    rust.pre_tokenizer = pre_tokenizers.Metaspace()
    rust.decoder = decoder or decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    rust.save(str(folder / "tokenizer.json"))
    return Tokenizer.from_folder(folder)


@pytest.fixture(scope="module")
def fallback(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    return fallback_tokenizer(tmp_path_factory.mktemp("fallback"))


def test_leading_spaces_depend_on_the_prompt(tmp_path: Path) -> None:
    """A Llama 2 style tokenizer drops the first space of a text, but not of its continuation."""
    tokenizer = fallback_tokenizer(tmp_path)
    euro = [FIRST_BYTE + byte for byte in "€".encode()]
    assert pieces_of(tokenizer, [1, 2, 3, *euro]) == ["Hello", " world", "!", "", "", "€", ""]
    assert pieces_of(tokenizer, [2, 3], [1]) == [" world", "!", ""]
    assert pieces_of(tokenizer, [4, 2, 3], [4, 4]) == ["", "world", "!", ""], "special tokens are no text"


@settings(max_examples=300)
@given(parts=st.lists(st.one_of(st.integers(0, 8), st.characters(exclude_categories=["Cs"])), max_size=30))
def test_pieces_under_byte_fallback(fallback: Tokenizer, parts: list[int | str]) -> None:
    """Any mix of words, special tokens and characters in bytes, joined, is what decoding all at once gives."""
    tokenizer = fallback
    token_ids = []
    for part in parts:
        token_ids += [part] if isinstance(part, int) else [FIRST_BYTE + byte for byte in part.encode()]
    pieces = pieces_of(tokenizer, token_ids)
    assert "".join(pieces) == tokenizer.decode(token_ids)
    assert not any("\ufffd" in piece for piece in pieces) or "\ufffd" in parts


def test_broken_bytes_under_byte_fallback(tmp_path: Path) -> None:
    tokenizer = fallback_tokenizer(tmp_path)
    euro = [FIRST_BYTE + byte for byte in "€".encode()]
    for broken in (euro[:2], [FIRST_BYTE + 255] * 3, [*euro[:2], FIRST_BYTE + 255]):
        for token_ids in ([1, *broken], [1, *broken, 3], [1, *broken, 4, 2]):
            assert "".join(pieces_of(tokenizer, token_ids)) == tokenizer.decode(token_ids), "one U+FFFD for each byte"


def test_other_decoders_are_left_to_the_tokenizer(tmp_path: Path) -> None:
    tokenizer = fallback_tokenizer(tmp_path, decoders.Metaspace())
    detokenizer = DetokenizerFactory(tokenizer).make()
    assert isinstance(detokenizer, WindowDetokenizer)
    assert [detokenizer.push(token_id) for token_id in (1, 2, 3)] == ["Hello", " world", "!"]


def test_special_tokens_and_stop_text(tokenizer: Tokenizer) -> None:
    end = tokenizer.token_id("<|im_end|>")
    assert end is not None and tokenizer.token_id("<|nope|>") is None
    assert pieces_of(tokenizer, [end, end]) == ["", "", ""]
    shown = DetokenizerFactory(tokenizer).make([], skip_special_tokens=False)
    assert shown.push(end) == "<|im_end|>"


@settings(max_examples=300)
@given(
    text=st.text(st.sampled_from("abé🙂"), max_size=30),
    stops=st.lists(st.text("abé", min_size=1, max_size=4), max_size=3),
)
def test_stop_strings_in_any_text(tokenizer: Tokenizer, text: str, stops: list[str]) -> None:
    sequence_text, shown, stopped = SequenceText(DetokenizerFactory(tokenizer).make(), StopStrings(stops)), "", False
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


def test_a_text_that_cannot_fit_is_told_by_its_length(tokenizer: Tokenizer) -> None:
    longest = max(map(len, RustTokenizer.from_str(tokenizer.to_json()).get_vocab()))
    most = 10 * max(longest, 16)
    for text in ("a" * most, "漢" * most, " " * most):
        tokenizer.check_length(text, 10)
        assert len(tokenizer.encode(f"{text}.")) > 10
        with pytest.raises(PromptTooLongError, match=rf"{most + 1} characters does not fit the context of 10 tokens"):
            tokenizer.check_length(f"{text}.", 10)


def test_a_word_that_is_one_token_however_long_it_is() -> None:
    words = RustTokenizer(rust_models.WordLevel({"[UNK]": 0, "a": 1}, unk_token="[UNK]"))
    tokenizer = Tokenizer(words, ())
    tokenizer.check_length("b" * 10_000, 10)
    assert tokenizer.encode("b" * 10_000) == [0]


def test_a_long_text_is_encoded_as_a_short_one_while_other_threads_go_on(tokenizer: Tokenizer) -> None:
    word, rust = "Grüße 你好 🙂 ", RustTokenizer.from_str(tokenizer.to_json())
    text = word * 20_000
    steps, is_over = [0], threading.Event()

    def count() -> None:
        while not is_over.wait(0.001):
            steps[0] += 1

    other = threading.Thread(target=count)
    interval = sys.getswitchinterval()
    sys.setswitchinterval(60)  # nobody is made to let others go on
    other.start()
    try:
        before = steps[0]
        found = tokenizer.encode(text)
        after = steps[0]
    finally:
        sys.setswitchinterval(interval)
        is_over.set()
        other.join()
    assert after > before and found == list(rust.encode(text).ids)
    with pytest.raises(InvalidPromptError, match="surrogates not allowed at character 10000"):
        tokenizer.encode("a" * 10_000 + "\ud800")


def test_texts_that_are_cut_keep_their_special_tokens(tokenizer: Tokenizer) -> None:
    rust = RustTokenizer.from_str(tokenizer.to_json())
    rust.post_processor = TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 1), ("[SEP]", 2)])
    ours = Tokenizer(RustTokenizer.from_str(rust.to_str()), ())
    for text in ("", "a b", "Grüße 你好 🙂 " * 3, "word " * 2000):
        for max_tokens in (3, 4, 20, 3000):
            rust.enable_truncation(max_tokens)
            assert ours.encode_within(text, max_tokens) == list(rust.encode(text).ids)


def test_a_text_that_is_only_counted_may_be_long_but_not_endless(tokenizer: Tokenizer) -> None:
    tokenizer.check_readable("a" * MAX_CHARS, 10)
    tokenizer.check_readable("a" * (MAX_CHARS + 1), MAX_CHARS)
    with pytest.raises(PromptTooLongError, match=f"a text of {MAX_CHARS + 1} characters is more than is read"):
        tokenizer.check_readable("a" * (MAX_CHARS + 1), 10)
