"""The committed model: its folder, its tokenizer, and a few held-out dialogues of every sort."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from pathlib import Path

import pytest

from examples.models.train_tiny_tools.dialogues import Dialogue, dialogue

FOLDER = Path("examples/models/tiny-tools")
PER_SORT = 4

tokenizers = pytest.importorskip("tokenizers")
pytest.importorskip("transformers")


def test_the_folder_is_small() -> None:
    assert sum(path.stat().st_size for path in FOLDER.iterdir()) <= 20 * 2**20


def test_three_to_five_million_parameters() -> None:
    safetensors = pytest.importorskip("safetensors")
    with safetensors.safe_open(FOLDER / "model.safetensors", "pt") as weights:
        sizes = [weights.get_slice(name).get_shape() for name in weights.keys()]  # noqa: SIM118
    count = sum(shape[0] * (shape[1] if len(shape) > 1 else 1) for shape in sizes)
    assert 3_000_000 <= count <= 5_000_000
    assert json.loads((FOLDER / "config.json").read_text())["tie_word_embeddings"]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "json",
        "  two  spaces ",
        "a\n\nb\t\r\n",
        'say "json" to `csv`',
        "héllo wörld — 日本語 🎉",
        '{"name": "x", "n": 120}',
    ],
)
def test_the_tokenizer_gives_back_any_text(text: str) -> None:
    tokenizer = tokenizers.Tokenizer.from_file(str(FOLDER / "tokenizer.json"))
    assert tokenizer.decode(tokenizer.encode(text).ids, skip_special_tokens=False) == text


@pytest.mark.parametrize("name", ["json", "textwrap", "concurrent.futures", "os.path", "Zurich", "get_17x"])
def test_a_name_has_the_same_tokens_wherever_it_stands(name: str) -> None:
    tokenizer = tokenizers.Tokenizer.from_file(str(FOLDER / "tokenizer.json"))
    alone = tokenizer.encode(name).ids
    for around in ('"{}"', "in {}?", "`{}`", "({})", "{} and"):
        found = tokenizer.encode(around.format(name)).ids
        assert any(found[start : start + len(alone)] == alone for start in range(len(found)))


def _few_of_every_sort() -> list[Dialogue]:
    chosen: dict[str, list[Dialogue]] = defaultdict(list)
    for number in range(400):
        made = dialogue(f"unit {number}", heldout=True, turns=1)
        sort = chosen[made.turns[0].category]
        if len(sort) < PER_SORT:
            sort.append(made)
    return [made for sort in chosen.values() for made in sort]


def test_it_answers_heldout_dialogues() -> None:
    from examples.models.train_tiny_tools.evaluate import run_all, transformers_generate

    runs = run_all(_few_of_every_sort(), transformers_generate(FOLDER))
    right = Counter(run.category for run in runs if not run.failure)
    failures = [f"{run.category}: {run.failure}" for run in runs if run.failure]
    # The model's README tells its accuracy; here a broken tokenizer, template or weight file would show.
    assert all(right[run.category] >= PER_SORT / 2 for run in runs), failures
    assert right.total() >= 0.7 * len(runs), failures
