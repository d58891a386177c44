"""EmbeddingModel: texts in, one vector each out."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from pathlib import Path

import torch

from .config import EngineConfig
from .device.select import select_device
from .embedding_texts import EmbeddingTexts
from .embedding_turns import BATCH_TOKENS, batches_by_length
from .errors import FlowServeError
from .hub import resolve_model
from .models.bert import EncoderPlan
from .models.decoder_states import DecoderStates
from .models.encoder import EncoderModel
from .models.encoder_config import EncoderConfig
from .models.folder_plan import context_length, embedding_config, read_plan
from .models.loader import one_thread
from .models.pieces import Pieces
from .models.pooling import PoolingConfig, pool, read_pooling
from .tokenizer import Tokenizer

_CPU_TURN_TOKENS = 512
"""A tenth of a second in a small model; larger batches are no faster on a CPU."""
_CPU_PIECE_MULTIPLICATIONS = 1 << 30
"""Of one piece: some twenty milliseconds on two cores. Half of it makes the whole a sixth slower, twice as much hardly
faster."""


NO_NUMBERS = "the model's vectors are no numbers (NaN or infinity): its weights are too large for the dtype"


class EmbeddingModel:
    """An encoder (BERT and its kin) or a decoder in this process, in torch operators.

    Pooled as the folder's sentence-transformers files say; without them an encoder by the mean, a decoder by the last
    token and normalized.

    model: folder in Hugging Face layout, or a hub id.  max_length: tokens of the longest text; None = what the folder
    says.  dtype, quantization, device, num_threads: as in EngineConfig; tables of embeddings stay exact. One thread at
    a time.
    Raises the ModelNotFound, Unsupported, Checkpoint, Tokenizer and InvalidConfig errors.
    """

    def __init__(
        self,
        model: str | Path,
        *,
        dtype: str = "auto",
        quantization: str | None = None,
        max_length: int | None = None,
        num_threads: int | None = None,
        device: str = "auto",
    ) -> None:
        options = EngineConfig(
            dtype=dtype, quantization=quantization, num_threads=num_threads, device=device, max_model_len=max_length
        )
        folder = resolve_model(model)
        config = embedding_config(folder)
        is_encoder = isinstance(config, EncoderConfig)
        self._pooling = read_pooling(folder, PoolingConfig() if is_encoder else PoolingConfig(("last",), True))
        context_length(max_length, config.max_positions, "max_length")
        self.max_length = max_length or min(config.max_positions, self._pooling.max_tokens or config.max_positions)
        self.dimension = len(self._pooling.poolings) * config.hidden_size
        self.tokenizer = Tokenizer.from_folder(folder)
        self.tokenizer.check_fits(config.vocab_size)
        self._texts = EmbeddingTexts(
            self.tokenizer, config.vocab_size, self.max_length, self._pooling.prompt, self._pooling.lowers_case
        )
        self._device = select_device(options.device)
        self._is_cpu = torch.device(self._device.operators.torch_device).type == "cpu"
        computed = self._device.resolve_dtype(options.dtype, getattr(torch, config.dtype, torch.float32))
        plan = read_plan(folder, config)
        with one_thread(), torch.inference_mode():
            self._model: EncoderModel | DecoderStates
            make_linear = None
            if quantization is not None:
                matrices = list(plan.matrices())
                make_linear = self._device.quantized_linears(matrices, quantization, computed, num_threads)
            if isinstance(plan, EncoderPlan):
                self._model = EncoderModel(plan, self._device.operators, computed, make_linear)
            else:
                self._model = DecoderStates(plan, self._device, computed, self.max_length, make_linear)
        self._device.start_operators(options.num_threads, config.num_parameters)

    @classmethod
    def of_engine(cls, folder: Path, config: EngineConfig, max_length: int | None) -> EmbeddingModel:
        """With those of an engine's options that mean something where nothing is generated."""
        return cls(
            folder,
            dtype=config.dtype,
            quantization=config.quantization,
            max_length=max_length,
            num_threads=config.num_threads,
            device=config.device,
        )

    @property
    def turn_tokens(self) -> int:
        """Tokens of a batch, where others wait for the processor meanwhile."""
        return _CPU_TURN_TOKENS if self._is_cpu else BATCH_TOKENS

    def embed(self, texts: str | Sequence[str | Sequence[int]], *, truncate: bool = False) -> list[list[float]]:
        """A vector of `dimension` floats for each text (or its token ids), in their order.

        truncate: cut texts that are too long instead of raising. Raises what `tokenize` raises, before anything runs.
        """
        return self.embed_tokens(self.tokenize(texts, truncate=truncate))

    def tokenize(self, texts: str | Sequence[str | Sequence[int]], *, truncate: bool = False) -> list[list[int]]:
        """See EmbeddingTexts.tokenize."""
        return self._texts.tokenize(texts, truncate=truncate)

    def embed_tokens(self, prompts: Sequence[Sequence[int]]) -> list[list[float]]:
        """`embed` for what `tokenize` returned."""
        vectors: list[list[float]] = [[] for _ in prompts]
        for batch in batches_by_length([len(prompt) for prompt in prompts]):
            computing = self.begin([prompts[place] for place in batch])
            while not computing.advance(math.inf):
                pass
            for place, vector in zip(batch, computing.vectors, strict=True):
                vectors[place] = vector
        return vectors

    def begin(self, prompts: Sequence[Sequence[int]]) -> EmbeddingBatch:
        """One batch of what `tokenize` returned, of similar length, to be computed piece by piece."""
        lengths = [len(prompt) for prompt in prompts]
        rows = [[*prompt, *[0] * (max(lengths) - len(prompt))] for prompt in prompts]
        token_ids = torch.tensor(rows, device=self._device.operators.torch_device)
        # What an accelerator computes is handed to it at once: cutting it would only make it slower.
        multiplications = _CPU_PIECE_MULTIPLICATIONS if self._is_cpu else None
        return EmbeddingBatch(self._model.pieces(token_ids, lengths, multiplications), lengths, self._pooling)


class EmbeddingBatch:
    """Texts on their way through a model. What is computed of them is dropped with it."""

    def __init__(self, pieces: Pieces, lengths: Sequence[int], pooling: PoolingConfig) -> None:
        self._pieces = pieces
        self._lengths = lengths
        self._pooling = pooling
        self.vectors: list[list[float]] = []
        """Of each text, once all is computed."""

    def advance(self, for_s: float) -> bool:
        """Compute pieces until so many seconds have passed, one at least; whether that was the last.

        Raises FlowServeError for vectors that are none.
        """
        until_s = time.perf_counter() + for_s
        with torch.inference_mode():
            try:
                while True:
                    next(self._pieces)
                    if time.perf_counter() >= until_s:
                        return False
            except StopIteration as end:
                vectors = pool(end.value, self._lengths, self._pooling)
                if not bool(vectors.isfinite().all()):
                    raise FlowServeError(NO_NUMBERS) from None
                self.vectors = vectors.tolist()
                return True
