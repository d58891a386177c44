"""Random tiny models in Hugging Face layout, for tests: real files, real formats, nonsense weights.

`make_model` writes config.json, generation_config.json, model.safetensors, tokenizer.json, tokenizer_config.json and
chat_template.jinja in a fraction of a second, with numpy and tokenizers alone (importing transformers takes seconds).
That transformers reads these folders without a missing or unexpected tensor is itself tested.
"""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

SPECIAL_TOKENS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]

_ARCHITECTURES = {
    "llama": ("LlamaForCausalLM", "llama"),
    "mistral": ("MistralForCausalLM", "mistral"),
    "phi3": ("Phi3ForCausalLM", "phi3"),
    "qwen2": ("Qwen2ForCausalLM", "qwen2"),
    "qwen3": ("Qwen3ForCausalLM", "qwen3"),
}

_WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)

_TEXTS = [
    "The quick brown fox jumps over the lazy dog.",
    "What is the weather like in Paris today? It is sunny and 21 degrees.",
    '{"name": "get_weather", "arguments": {"city": "Paris"}} <tool_call> </tool_call>',
    "Grüße aus München, Übung macht den Meister: süß, größer, Äpfel.",
    "你好，世界。今天天气怎么样？ こんにちは 🙂🚀",
    "def square(x):\n    return x * x\n\nprint(square(12))\n",
    "0123456789 3.14159 -1 +2 [1, 2, 3] true false null",
]

_CHAT_TEMPLATE = """\
{%- if tools %}
    {{- '<|im_start|>system\\n' }}
    {%- if messages[0].role == 'system' %}
        {{- messages[0].content + '\\n\\n' }}
    {%- endif %}
    {{- '# Tools\\n\\nYou may call one or more functions.\\n<tools>' }}
    {%- for tool in tools %}
        {{- '\\n' }}
        {{- tool | tojson }}
    {%- endfor %}
    {{- '\\n</tools><|im_end|>\\n' }}
{%- elif messages[0].role == 'system' %}
    {{- '<|im_start|>system\\n' + messages[0].content + '<|im_end|>\\n' }}
{%- endif %}
{%- for message in messages %}
    {%- if message.role == 'system' %}
        {%- if not loop.first %}{{ raise_exception('a system message must come first') }}{% endif %}
        {%- continue %}
    {%- endif %}
    {%- if message.role == 'tool' %}
        {{- '<|im_start|>user\\n<tool_response>\\n' + message.content + '\\n</tool_response><|im_end|>\\n' }}
    {%- else %}
        {{- '<|im_start|>' + message.role + '\\n' + (message.content or '') }}
        {%- for call in message.tool_calls or [] %}
            {%- set function = call.function or call %}
            {{- '\\n<tool_call>\\n{"name": "' + function.name + '", "arguments": ' }}
            {{- function.arguments | tojson }}
            {{- '}\\n</tool_call>' }}
        {%- endfor %}
        {{- '<|im_end|>\\n' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
{%- endif %}
"""


def make_model(folder: str | Path, architecture: str, *, seed: int = 0, **config: Any) -> Path:
    """Write a random model of `architecture` ("llama", "mistral", "phi3", "qwen2", "qwen3") and return its folder.

    `config` overrides fields of config.json (sizes, rope_scaling, tie_word_embeddings, ...).
    The same arguments write the same bytes.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = _train_tokenizer()
    class_name, model_type = _ARCHITECTURES[architecture]
    settings: dict[str, Any] = {
        "architectures": [class_name],
        "model_type": model_type,
        "vocab_size": tokenizer.get_vocab_size(),
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 512,
        "rms_norm_eps": 1e-6,
        "rope_theta": 10000.0,
        "hidden_act": "silu",
        "tie_word_embeddings": False,
        "torch_dtype": "float32",
        "bos_token_id": None,
        "eos_token_id": tokenizer.token_to_id("<|im_end|>"),
    }
    if architecture == "qwen3":
        settings["head_dim"] = 24  # deliberately not hidden_size / num_attention_heads
    if architecture == "mistral":
        settings["sliding_window"] = 21  # shorter than what tests generate, and no whole number of blocks
    if architecture == "phi3":
        settings["pad_token_id"] = None  # else transformers' default, which lies outside the small vocabulary
    settings.update(config)
    _write_json(folder / "config.json", settings)
    eos_ids = [tokenizer.token_to_id("<|im_end|>"), tokenizer.token_to_id("<|endoftext|>")]
    _write_json(folder / "generation_config.json", {"eos_token_id": eos_ids})
    save_file(random_tensors(architecture, settings, seed), folder / "model.safetensors", metadata={"format": "pt"})
    tokenizer.save(str(folder / "tokenizer.json"))
    _write_json(
        folder / "tokenizer_config.json",
        {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "eos_token": "<|im_end|>",
            "pad_token": "<|endoftext|>",
            "model_max_length": settings["max_position_embeddings"],
            "clean_up_tokenization_spaces": False,
        },
    )
    (folder / "chat_template.jinja").write_text(_CHAT_TEMPLATE, encoding="utf-8")
    return folder


def random_tensors(architecture: str, settings: dict[str, Any], seed: int) -> dict[str, np.ndarray]:
    """All tensors of the model under their Hugging Face names; wide enough that greedy choices are never ties."""
    rng = np.random.default_rng(seed)
    hidden, inner, vocab = settings["hidden_size"], settings["intermediate_size"], settings["vocab_size"]
    head_dim = settings.get("head_dim") or hidden // settings["num_attention_heads"]
    q_size, kv_size = settings["num_attention_heads"] * head_dim, settings["num_key_value_heads"] * head_dim

    def matrix(*shape: int) -> np.ndarray:
        return rng.normal(0.0, 0.2, shape).astype(np.float32)

    def norm(size: int) -> np.ndarray:
        return (1.0 + rng.normal(0.0, 0.1, size)).astype(np.float32)

    tensors = {"model.embed_tokens.weight": matrix(vocab, hidden), "model.norm.weight": norm(hidden)}
    if not settings["tie_word_embeddings"]:
        tensors["lm_head.weight"] = matrix(vocab, hidden)
    for index in range(settings["num_hidden_layers"]):
        layer = f"model.layers.{index}."
        for name, size in (("q", q_size), ("k", kv_size), ("v", kv_size)):
            if architecture == "phi3":
                continue
            tensors[f"{layer}self_attn.{name}_proj.weight"] = matrix(size, hidden)
            if architecture == "qwen2" or settings.get("attention_bias"):
                tensors[f"{layer}self_attn.{name}_proj.bias"] = matrix(size)
        tensors[f"{layer}self_attn.o_proj.weight"] = matrix(hidden, q_size)
        if settings.get("attention_bias") and architecture != "qwen2":
            tensors[f"{layer}self_attn.o_proj.bias"] = matrix(hidden)
        if settings.get("mlp_bias"):
            for name, size in (("gate", inner), ("up", inner), ("down", hidden)):
                tensors[f"{layer}mlp.{name}_proj.bias"] = matrix(size)
        if architecture == "qwen3":
            tensors[f"{layer}self_attn.q_norm.weight"] = norm(head_dim)
            tensors[f"{layer}self_attn.k_norm.weight"] = norm(head_dim)
        if architecture == "phi3":
            tensors[f"{layer}self_attn.qkv_proj.weight"] = matrix(q_size + 2 * kv_size, hidden)
            tensors[f"{layer}mlp.gate_up_proj.weight"] = matrix(2 * inner, hidden)
        else:
            tensors[f"{layer}mlp.gate_proj.weight"] = matrix(inner, hidden)
            tensors[f"{layer}mlp.up_proj.weight"] = matrix(inner, hidden)
        tensors[f"{layer}mlp.down_proj.weight"] = matrix(hidden, inner)
        tensors[f"{layer}input_layernorm.weight"] = norm(hidden)
        tensors[f"{layer}post_attention_layernorm.weight"] = norm(hidden)
    return tensors


@cache
def _train_tokenizer() -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    # As Qwen splits text: transformers forces this on folders of model_type qwen2, whatever tokenizer.json says.
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_WORDS), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=SPECIAL_TOKENS,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_TEXTS * 4, trainer)
    return tokenizer


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
