"""A Hugging Face folder of a Llama or Qwen3 with a tied head to GGUF, without words: FOLDER TARGET f32|q8_0|q4_0.

Names and keys are those of llama.cpp's src/llama-arch.cpp; quantised by llama.cpp itself, all matrices alike.
"""

import json
import sys
from pathlib import Path

import gguf
import numpy as np

NAMES = {
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
FILE_TYPES = {"q8_0": 7, "q4_0": 2}


def tensors(path):
    """Names and float32 values of a safetensors file."""
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(length))
        header.pop("__metadata__", None)
        for name, entry in header.items():
            start, end = entry["data_offsets"]
            file.seek(8 + length + start)
            data = file.read(end - start)
            if entry["dtype"] == "BF16":
                values = (np.frombuffer(data, dtype=np.uint16).astype(np.uint32) << 16).view(np.float32)
            else:
                values = np.frombuffer(data, dtype=np.float32)
            yield name, values.reshape(entry["shape"])


def interleaved(values, heads):
    """llama.cpp turns neighbouring numbers of a Llama's heads, Hugging Face the two halves."""
    rows, columns = values.shape
    return values.reshape(heads, 2, rows // heads // 2, columns).swapaxes(1, 2).reshape(rows, columns)


def gguf_name(name):
    if name == "model.embed_tokens.weight":
        return "token_embd.weight"
    if name == "model.norm.weight":
        return "output_norm.weight"
    layer, _, rest = name.removeprefix("model.layers.").partition(".")
    return f"blk.{layer}.{NAMES[rest.removesuffix('.weight')]}.weight"


def write(source, target):
    config = json.loads((source / "config.json").read_text())
    kind = config["model_type"]
    writer = gguf.GGUFWriter(str(target), kind)
    writer.add_name("bench")
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_key_length(config["head_dim"])
    writer.add_value_length(config["head_dim"])
    writer.add_rope_dimension_count(config["head_dim"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_rope_freq_base(config["rope_theta"])
    writer.add_vocab_size(config["vocab_size"])
    writer.add_tokenizer_model("no_vocab")
    for name, values in tensors(source / "model.safetensors"):
        if kind == "llama" and ".q_proj" in name:
            values = interleaved(values, config["num_attention_heads"])
        if kind == "llama" and ".k_proj" in name:
            values = interleaved(values, config["num_key_value_heads"])
        writer.add_tensor(gguf_name(name), np.ascontiguousarray(values))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def quantize(source, target, precision):
    import llama_cpp

    options = llama_cpp.llama_model_quantize_default_params()
    options.ftype, options.nthread, options.pure = FILE_TYPES[precision], 0, True
    if llama_cpp.llama_model_quantize(str(source).encode(), str(target).encode(), options):
        sys.exit(f"llama.cpp did not quantise to {precision}")


source, target, precision = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]
if precision == "f32":
    write(source, target)
else:
    exact = target.with_suffix(".exact")
    try:
        write(source, exact)
        quantize(exact, target, precision)
    finally:
        exact.unlink(missing_ok=True)
