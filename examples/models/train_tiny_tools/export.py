"""Writes the model's folder in Hugging Face layout from the last checkpoint."""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer

from .network import Network, Shape
from .template import CHAT_TEMPLATE
from .tokenizer import SPECIAL
from .train import WORK

MODEL = Path("examples/models/tiny-tools")


def _write_json(path: Path, value: dict[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=2) + "\n")


def export(work: Path, folder: Path) -> None:
    """Weights as bfloat16, which halves the file; the tokenizer, its template and the configurations beside them."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = Tokenizer.from_file(str(work / "tokenizer.json"))
    end, turn_end = tokenizer.token_to_id("<|endoftext|>"), tokenizer.token_to_id("<|im_end|>")
    network = Network(Shape(vocab_size=tokenizer.get_vocab_size()))
    network.load_state_dict(torch.load(work / "checkpoint.pt", weights_only=True)["network"])
    weights = {name: value.to(torch.bfloat16).contiguous() for name, value in network.checkpoint().items()}
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "model.safetensors").chmod(0o644)
    _write_json(folder / "config.json", network.shape.config(turn_end, end))
    _write_json(
        folder / "generation_config.json",
        {"do_sample": False, "eos_token_id": [turn_end, end], "pad_token_id": end},
    )
    shutil.copyfile(work / "tokenizer.json", folder / "tokenizer.json")
    (folder / "chat_template.jinja").write_text(CHAT_TEMPLATE)
    _write_json(
        folder / "tokenizer_config.json",
        {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "model_max_length": network.shape.context,
            "bos_token": None,
            "eos_token": "<|im_end|>",
            "pad_token": "<|endoftext|>",
            "additional_special_tokens": [token for token in SPECIAL if token.startswith("<|im_")],
            "clean_up_tokenization_spaces": False,
            "add_bos_token": False,
        },
    )


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--work-dir", default=str(WORK))
    parser.add_argument("--folder", default=str(MODEL))


def main(arguments: argparse.Namespace) -> None:
    export(Path(arguments.work_dir), Path(arguments.folder))
