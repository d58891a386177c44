"""DecoderModel: a decoder-only model in torch operators, built from its plan."""

from __future__ import annotations

import threading
from collections.abc import Callable

import torch

from ..device.base import Operators
from ..layers.attention import ForwardContext, SelfAttention
from ..layers.linear import Linear
from ..layers.mlp import GatedMLP
from ..layers.norm import RMSNorm
from .parameter import Parameter
from .plan import DecoderPlan, LayerPlan

MakeLinear = Callable[[Parameter, torch.Tensor | None], Callable[[torch.Tensor], torch.Tensor]]
"""From a weight and a loaded bias to [T, in] -> [T, out]."""


class DecoderLayer:
    """Pre-norm attention and MLP, each added to the residual."""

    def __init__(self, plan: LayerPlan, index: int, load: TensorLoader) -> None:
        config = load.config
        self.attention_norm = load.norm(plan.attention_norm)
        self.attention = SelfAttention(
            layer_index=index,
            num_heads=config.num_heads,
            num_kv_heads=config.num_kv_heads,
            head_dim=config.head_dim,
            window=config.windows[index],
            qkv=load.linear(plan.qkv, plan.qkv_bias),
            output=load.linear(plan.output, plan.output_bias),
            qk_norm=load.joined_norm(plan.query_norm, plan.key_norm),
            operators=load.operators,
        )
        self.mlp_norm = load.norm(plan.mlp_norm)
        self.mlp = GatedMLP(
            load.linear(plan.gate_up, plan.gate_up_bias), load.linear(plan.down, plan.down_bias), load.operators
        )

    def __call__(self, hidden: torch.Tensor, context: ForwardContext) -> torch.Tensor:
        hidden = hidden + self.attention(self.attention_norm(hidden), context)
        return hidden + self.mlp(self.mlp_norm(hidden))


class DecoderModel:
    """Embedding, layers, final norm, output projection. T packed tokens, d hidden size, V vocabulary.

    make_linear: what multiplies by a matrix, of which there is no other copy; None = as the device does it.
    is_deferred: nothing is read yet; the parts (see `DecoderPlan.parts`) are built one by one, in their order.
    has_output: False where nobody asks for logits.

    Raises CheckpointError for a tensor that holds NaN or infinity.
    """

    def __init__(
        self,
        plan: DecoderPlan,
        operators: Operators,
        dtype: torch.dtype,
        make_linear: MakeLinear | None = None,
        *,
        is_deferred: bool = False,
        has_output: bool = True,
    ) -> None:
        self.plan = plan
        self._has_output = has_output
        self.layers: list[DecoderLayer] = []
        self._load = TensorLoader(plan, operators, dtype, make_linear)
        self._dtype = dtype
        self._last = len(plan.layers) + 1
        self.read_s = 0.0
        """What reading deferred parts into memory took; 0 where nothing was, or not all is there yet."""
        self._there: set[int] = set()
        self._building = threading.Lock()
        if not is_deferred:
            self.build_all()

    @property
    def is_there(self) -> bool:
        """Whether all parts are built."""
        return len(self._there) > self._last

    def build_all(self) -> None:
        """What is not built yet."""
        # The largest matrix first: what packing it takes beside it is taken while little else is there.
        for part in (self._last, *range(self._last)):
            self.build(part)

    def build(self, part: int) -> None:
        """Read a part, unless it is there. Several threads may: the parts are those of all who compute with them."""
        with self._building:
            if part in self._there:
                return
            load, plan = self._load, self.plan
            if part == 0:
                self._embedding = load.table(plan.embedding)
            elif part < self._last:
                self.layers.append(DecoderLayer(plan.layers[part - 1], part - 1, load))
            else:
                if self._has_output:
                    self.output = load.linear(plan.head or plan.embedding, None)
                self.norm = load.norm(plan.final_norm)
            self._there.add(part)

    def forward(
        self, token_ids: torch.Tensor, context: ForwardContext, wait_for: Callable[[int], None] | None = None
    ) -> torch.Tensor:
        """token_ids [T] -> hidden states [T, d] after the final norm; keys and values go to the context's storage.

        wait_for: called before each part is computed with, where some may not be built yet.
        """
        wait = wait_for or _nothing
        wait(0)
        hidden = self.embed(token_ids)
        for part in range(1, self._last):
            wait(part)
            hidden = self.layers[part - 1](hidden, context)
        wait(self._last)
        return self.norm(hidden)

    def embed(self, token_ids: torch.Tensor) -> torch.Tensor:
        """[T] -> [T, d], what the first layer gets."""
        return torch.nn.functional.embedding(token_ids, self._embedding).to(self._dtype)

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """[n, d] -> [n, V], in float32."""
        return self.output(hidden).float()


def _nothing(part: int) -> None:
    """It is there."""


class TensorLoader:
    """Parameters of a plan as layers hold them: in the engine's dtype, prepared for the device."""

    def __init__(
        self, plan: DecoderPlan, operators: Operators, dtype: torch.dtype, make_linear: MakeLinear | None
    ) -> None:
        self.config = plan.config
        self.operators = operators
        self._dtype = dtype
        self._make_linear = make_linear

    def tensor(self, parameter: Parameter) -> torch.Tensor:
        return parameter.load_finite(self._dtype).to(self.operators.torch_device)

    def table(self, parameter: Parameter) -> torch.Tensor:
        """A matrix of which a step reads few rows: as in the checkpoint, where possible a view of its file."""
        for _ in parameter.finite_pieces(parameter.stored_dtype):
            pass
        return parameter.load(parameter.stored_dtype).to(self.operators.torch_device)

    def linear(self, weight: Parameter, bias: Parameter | None) -> Callable[[torch.Tensor], torch.Tensor]:
        loaded_bias = None if bias is None else self.tensor(bias)
        if self._make_linear is not None:
            return self._make_linear(weight, loaded_bias)
        return Linear(self.operators.prepare_weight(self.tensor(weight)), loaded_bias, self.operators)

    def norm(self, weight: Parameter) -> RMSNorm:
        return RMSNorm(self.tensor(weight), self.config.rms_norm_eps, self.operators)

    def joined_norm(self, query: Parameter | None, key: Parameter | None) -> RMSNorm | None:
        """The norms of queries and keys as one over all their heads, weight [H + K, D]."""
        if query is None or key is None:
            return None
        query_weights = self.tensor(query).expand(self.config.num_heads, -1)
        key_weights = self.tensor(key).expand(self.config.num_kv_heads, -1)
        return RMSNorm(torch.cat((query_weights, key_weights)), self.config.rms_norm_eps, self.operators)
