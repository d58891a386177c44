"""Trains tiny-tools within a budget of processor time; goes on from the last checkpoint when one is there."""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from tokenizers import Tokenizer
from torch import Tensor, nn

from .examples import Batch, Stream
from .muon import Muon
from .network import Network, Shape
from .probe import probe
from .tokenizer import train_tokenizer

WORK = Path.home() / ".cache" / "deepserve" / "tiny-tools"
CORES = 2
CHECKPOINT_SECONDS = 180
PROBE_SECONDS = 240
GIVEN_SHARE = 0.3  # of the given tokens count in the loss at first, ever fewer until a seventh of the budget is spent
GIVEN_WEIGHT = 0.5


class Trainer:
    """The network, its optimisers and how far they are: what a checkpoint holds."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        self.arguments = arguments
        self.folder = Path(arguments.work_dir)
        self.folder.mkdir(parents=True, exist_ok=True)
        self.tokenizer = self._tokenizer()
        # Sharp attention makes numbers too small for the fast path of the processor: four times slower without this.
        torch.set_flush_denormal(True)
        torch.manual_seed(arguments.seed)
        torch.set_num_threads(CORES)
        self.network = Network(Shape(vocab_size=self.tokenizer.get_vocab_size()))
        matrices = [p for n, p in self.network.named_parameters() if p.ndim == 2 and "embed" not in n]
        others = [p for n, p in self.network.named_parameters() if p.ndim != 2 or "embed" in n]
        self.optimizers = [
            Muon(matrices, lr=arguments.matrix_lr),
            torch.optim.AdamW(others, lr=arguments.other_lr, betas=(0.9, 0.98), weight_decay=0.0),
        ]
        self.generator = torch.Generator().manual_seed(arguments.seed)
        self.pool, self.tokens, self.steps, self.seconds = 0, 0, 0, 0.0
        self.forward: nn.Module = self.network
        self._restore()
        if arguments.compile:
            self.forward = torch.compile(self.network, dynamic=True)  # type: ignore[assignment]

    def _tokenizer(self) -> Tokenizer:
        path = self.folder / "tokenizer.json"
        if not path.exists():
            train_tokenizer().save(str(path))
        return Tokenizer.from_file(str(path))

    @property
    def progress(self) -> float:
        """The share of the budget that is spent, in processor seconds."""
        return self.seconds / (self.arguments.minutes * 60 * CORES)

    def _restore(self) -> None:
        path = self.folder / "checkpoint.pt"
        if not path.exists():
            return
        saved = torch.load(path, weights_only=True)
        self.network.load_state_dict(saved["network"])
        for optimizer, state in zip(self.optimizers, saved["optimizers"], strict=True):
            optimizer.load_state_dict(state)
        self.pool, self.tokens, self.steps, self.seconds = (
            saved["pool"],
            saved["tokens"],
            saved["steps"],
            saved["seconds"],
        )
        print(
            f"goes on at pool {self.pool}, {self.tokens / 1e6:.1f} M tokens, {self.seconds / 60:.1f} processor minutes"
        )

    def save(self) -> None:
        saved = {
            "network": self.network.state_dict(),
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
            "pool": self.pool,
            "tokens": self.tokens,
            "steps": self.steps,
            "seconds": self.seconds,
        }
        temporary = self.folder / "checkpoint.tmp"
        torch.save(saved, temporary)
        temporary.rename(self.folder / "checkpoint.pt")

    def _set_rates(self) -> None:
        """Warm up shortly, stay, then fall to nothing over the last part."""
        rising = min(1.0, (self.steps + 1) / 60)
        left = max(0.0, 1 - self.progress)  # the last pool may run a little over the budget
        falling = min(1.0, left / (1 - self.arguments.stay)) ** 1.6
        for optimizer, base in zip(self.optimizers, (self.arguments.matrix_lr, self.arguments.other_lr), strict=True):
            for group in optimizer.param_groups:
                group["lr"] = base * rising * falling

    def step(self, batch: Batch) -> Tensor:
        """One update. Early on the given text counts a little too: schemas repeat names, which teaches copying."""
        given_share = max(0.0, GIVEN_SHARE * (1 - self.progress / 0.15))
        hidden = self.forward(batch.tokens).flatten(0, 1)
        own = batch.own.clone()
        own[:, -1] = -1
        lucky = torch.rand(own.shape, generator=self.generator) < given_share
        # Scores for the whole vocabulary are dear, so they are made for chosen places only.
        places = ((own == 1) | (own == 0) & lucky).flatten().nonzero()[:, 0]
        scores = self.network.logits(hidden.index_select(0, places))
        losses = F.cross_entropy(scores, batch.tokens.flatten()[places + 1], reduction="none")
        mine = (own.flatten()[places] == 1).float()
        loss = (losses * (mine + GIVEN_WEIGHT * (1 - mine))).sum() / mine.sum()
        loss.backward()
        self._set_rates()
        nn.utils.clip_grad_norm_(self.network.parameters(), 1.0)
        for optimizer in self.optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        return ((losses * mine).sum() / mine.sum()).detach()

    def run(self) -> None:
        """Trains until the budget is spent."""
        used_before, started = self.seconds, time.process_time()
        saved = probed = shown = self.seconds
        losses: list[float] = []
        wall = time.time()
        stream = Stream(self.tokenizer, self.arguments.batch_tokens)
        while self.progress < 1:
            for batch in stream.pool(self.pool, self.progress):
                losses.append(float(self.step(batch)))
                self.tokens += int((batch.own >= 0).sum())
                self.steps += 1
                self.seconds = used_before + time.process_time() - started
            self.pool += 1
            if self.seconds - shown > 30:
                shown = self.seconds
                print(
                    f"{self.seconds / 60:5.1f} cpu-min {(time.time() - wall) / 60:5.1f} min  step {self.steps}  "
                    f"{self.tokens / 1e6:.2f} M tokens  loss {sum(losses) / len(losses):.4f}",
                    flush=True,
                )
                losses.clear()
            if self.seconds - saved > CHECKPOINT_SECONDS * CORES:
                saved = self.seconds
                self.save()
            if self.seconds - probed > PROBE_SECONDS * CORES:
                probed = self.seconds
                print(probe(self.network, self.tokenizer, 96), flush=True)
        self.save()
        print(probe(self.network, self.tokenizer, 400), flush=True)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--minutes", type=float, default=45, help="budget: minutes of two cores, counted in processor time"
    )
    parser.add_argument(
        "--work-dir", default=str(WORK), help="where tokenizer and checkpoint lie; training goes on from there"
    )
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--batch-tokens", type=int, default=4096)
    parser.add_argument("--matrix-lr", type=float, default=0.02)
    parser.add_argument("--other-lr", type=float, default=0.003)
    parser.add_argument(
        "--stay", type=float, default=0.35, help="share of the budget after which the learning rate falls"
    )
    parser.add_argument(
        "--compile", action=argparse.BooleanOptionalAction, default=True, help="torch.compile; needs a C++ compiler"
    )


def main(arguments: argparse.Namespace) -> None:
    Trainer(arguments).run()
