"""EmbeddingModel: texts in, one vector each out."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import torch

from .config import EngineConfig
from .device.select import select_device
from .embedding_turns import BATCH_TOKENS, batches_by_length
from .errors import InvalidPromptError, PromptTooLongError
from .hub import resolve_model
from .models.bert import EncoderPlan
from .models.decoder_states import DecoderStates
from .models.encoder import EncoderModel
from .models.encoder_config import EncoderConfig
from .models.folder_plan import context_length, embedding_config, read_plan
from .models.loader import one_thread
from .models.pooling import PoolingConfig, pool, read_pooling
from .tokenizer import Tokenizer

_CPU_TURN_TOKENS = 512
"""A tenth of a second in a small model; larger batches are no faster on a CPU."""
_BYTES = (bytes, bytearray, memoryview)
"""They could be taken for token ids."""


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
        self._vocab_size = config.vocab_size
        self._device = select_device(options.device)
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
        is_cpu = torch.device(self._device.operators.torch_device).type == "cpu"
        return _CPU_TURN_TOKENS if is_cpu else BATCH_TOKENS

    def embed(self, texts: str | Sequence[str | Sequence[int]], *, truncate: bool = False) -> list[list[float]]:
        """A vector of `dimension` floats for each text (or its token ids), in their order.

        truncate: cut texts that are too long instead of raising. Raises what `tokenize` raises, before anything runs.
        """
        return self.embed_tokens(self.tokenize(texts, truncate=truncate))

    def tokenize(self, texts: str | Sequence[str | Sequence[int]], *, truncate: bool = False) -> list[list[int]]:
        """The token ids that the model gets for each text, with special tokens; token ids are taken as they are.

        Raises PromptTooLongError or InvalidPromptError, which say which text is at fault.
        """
        if not isinstance(texts, Iterable) or isinstance(texts, _BYTES):
            raise InvalidPromptError(f"texts must be a text or a list of texts or token ids, got {texts!r}")
        listed = [texts] if isinstance(texts, str) else list(texts)
        return [self._tokenize(index, text, truncate) for index, text in enumerate(listed)]

    def embed_tokens(self, prompts: Sequence[Sequence[int]]) -> list[list[float]]:
        """`embed` for what `tokenize` returned."""
        vectors: list[list[float]] = [[] for _ in prompts]
        with torch.inference_mode():
            for batch in batches_by_length([len(prompt) for prompt in prompts]):
                lengths = [len(prompts[index]) for index in batch]
                rows = [[*prompts[index], *[0] * (max(lengths) - len(prompts[index]))] for index in batch]
                hidden = self._model.forward(torch.tensor(rows, device=self._device.operators.torch_device), lengths)
                for index, vector in zip(batch, pool(hidden, lengths, self._pooling).tolist(), strict=True):
                    vectors[index] = vector
        return vectors

    def _tokenize(self, index: int, text: str | Sequence[int], truncate: bool) -> list[int]:
        token_ids = self._encode(index, text, truncate) if isinstance(text, str) else self._check_ids(index, text)
        if len(token_ids) > self.max_length:
            if not truncate:
                raise PromptTooLongError(
                    f"text {index} has {len(token_ids)} tokens, the model takes {self.max_length}; "
                    "truncate=True (over HTTP: truncate_prompt_tokens=-1) cuts it"
                )
            token_ids = token_ids[: self.max_length]
        if not token_ids:
            raise InvalidPromptError(f"text {index} is empty")
        return token_ids

    def _encode(self, index: int, text: str, truncate: bool) -> list[int]:
        text = self._pooling.prompt + text
        text = text.lower() if self._pooling.lowers_case else text
        try:
            if not truncate:
                self.tokenizer.check_length(text, self.max_length)
            self.tokenizer.check_readable(text, self.max_length)
            if truncate:  # read whole: where its first tokens end may depend on what follows them
                return self.tokenizer.encode_within(text, self.max_length)
            return self.tokenizer.encode(text)
        except (InvalidPromptError, PromptTooLongError) as error:
            raise type(error)(f"text {index}: {error}") from error

    def _check_ids(self, index: int, token_ids: Sequence[int]) -> list[int]:
        if not isinstance(token_ids, Iterable) or isinstance(token_ids, _BYTES):
            raise InvalidPromptError(f"text {index} must be a text or token ids, got {token_ids!r}")
        for token_id in token_ids:
            if type(token_id) is not int or not 0 <= token_id < self._vocab_size:
                text = f"text {index}: token id {token_id!r} is not in the vocabulary of {self._vocab_size}"
                raise InvalidPromptError(text)
        return list(token_ids)
