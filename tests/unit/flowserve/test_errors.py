"""Bad input: each kind has its own error, and the message names the culprit."""

from __future__ import annotations

import json
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors.numpy import load_file, save_file

from flowserve import LLM, Engine, EngineConfig, SamplingParams, StructuredOutputsParams, errors
from flowserve.errors import (
    CheckpointError,
    FlowServeError,
    InvalidConfigError,
    InvalidSamplingParamsError,
    ModelNotFoundError,
    TokenizerError,
    UnsupportedArchitectureError,
    UnsupportedModelError,
)
from flowserve.hub import resolve_model

Models = Callable[..., Path]


@pytest.fixture
def folder(models: Models, tmp_path: Path) -> Path:
    """A copy of the tiny Llama to damage."""
    return Path(shutil.copytree(models(), tmp_path / "model"))


def refuses(folder: Path | str, error: type[FlowServeError], words: str, **options: Any) -> None:
    with pytest.raises(error, match=words):
        Engine.from_folder(folder, EngineConfig(num_threads=1, **options))


def change_config(folder: Path, **fields: Any) -> None:
    config = json.loads((folder / "config.json").read_text())
    config.update(fields)
    (folder / "config.json").write_text(json.dumps({key: value for key, value in config.items() if value != "gone"}))


def test_no_such_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    refuses(tmp_path / "nowhere", ModelNotFoundError, "nowhere' is no folder")
    refuses("./nowhere", ModelNotFoundError, "./nowhere' is no folder")
    refuses("a/b/c", ModelNotFoundError, "a/b/c' is no folder")
    (tmp_path / "file.gguf").write_text("")
    refuses(str(tmp_path / "file.gguf"), ModelNotFoundError, "is a file, not a model folder")
    monkeypatch.chdir(tmp_path)
    refuses("file.gguf", ModelNotFoundError, "is a file, not a model folder")
    refuses(tmp_path, ModelNotFoundError, "has no config.json")


@pytest.mark.parametrize("model", [None, "", " ", 5])
def test_no_model(model: Any) -> None:
    with pytest.raises(InvalidConfigError, match="model must be a model folder or a hub id, got"):
        LLM(model)


@pytest.mark.parametrize("option", ["gpu_memory_utilization", "max_modle_len"])
def test_an_option_that_does_not_exist(models: Models, option: str) -> None:
    with pytest.raises(InvalidConfigError, match=f"no option '{option}'.*dtype.*max_model_len"):
        LLM(models(), **{option: 1})


def test_a_hub_id_without_the_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub

    asked = []

    def unreachable(model: str, **options: Any) -> str:
        asked.append(model)
        raise OSError("no route to host\nand more")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", unreachable)
    refuses("Qwen/Qwen3-0.6B", ModelNotFoundError, "'Qwen/Qwen3-0.6B' is no folder.*hub: no route to host$")
    assert asked == ["Qwen/Qwen3-0.6B"]


def test_a_hub_id_is_downloaded(monkeypatch: pytest.MonkeyPatch, models: Models) -> None:
    import huggingface_hub

    asked = []

    def download(model: str, allow_patterns: list[str]) -> str:
        asked.append((model, "*.safetensors" in allow_patterns))
        return str(models())

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    assert Engine.from_folder("tiny/llama", EngineConfig(num_threads=1)).max_model_len == 512
    assert resolve_model("tiny/llama", with_weights=False) == models()
    assert asked == [("tiny/llama", True), ("tiny/llama", False)]


@pytest.mark.parametrize("size", [0, 4, 100, -1, -50000])
def test_truncated_weights(folder: Path, size: int) -> None:
    content = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(content[:size])
    refuses(folder, CheckpointError, "model.safetensors")


def test_weights_that_are_a_pointer_file(folder: Path) -> None:
    (folder / "model.safetensors").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")
    refuses(folder, CheckpointError, "model.safetensors")


@pytest.mark.parametrize("name", ["model.layers.1.self_attn.k_proj.weight", "model.norm.weight", "lm_head.weight"])
def test_missing_tensor(folder: Path, name: str) -> None:
    tensors = load_file(folder / "model.safetensors")
    del tensors[name]
    save_file(tensors, folder / "model.safetensors")
    refuses(folder, CheckpointError, f"tensor '{name}' is missing")


def test_tensor_of_another_shape(folder: Path) -> None:
    change_config(folder, intermediate_size=100)
    refuses(folder, CheckpointError, r"gate_proj.weight' has shape \(96, 64\), config.json asks for \(100, 64\)")


def test_no_weights_and_broken_index(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    refuses(folder, CheckpointError, "no model.safetensors")
    index = folder / "model.safetensors.index.json"
    index.write_text("{}")
    refuses(folder, CheckpointError, "no weight_map")
    index.write_text('{"weight_map": {"model.embed_tokens.weight": "model-00001-of-00002.safetensors"}}')
    refuses(folder, CheckpointError, "model-00001-of-00002.safetensors")


@pytest.mark.parametrize(
    "fields, error, words",
    [
        ({"architectures": ["MambaForCausalLM"]}, UnsupportedArchitectureError, "MambaForCausalLM.*LlamaForCausalLM"),
        ({"architectures": "gone"}, CheckpointError, "architectures"),
        ({"hidden_size": "gone"}, CheckpointError, "'hidden_size'"),
        ({"num_hidden_layers": -1}, CheckpointError, "'num_hidden_layers'"),
        ({"num_hidden_layers": 2.5}, CheckpointError, "'num_hidden_layers'"),
        ({"vocab_size": "400"}, CheckpointError, "'vocab_size'"),
        ({"num_key_value_heads": 3}, CheckpointError, "4 heads do not share 3"),
        ({"hidden_act": "gelu"}, UnsupportedModelError, "gelu"),
        ({"quantization_config": {"quant_method": "gptq"}}, UnsupportedModelError, "quantised"),
        ({"rope_scaling": {"rope_type": "axial"}}, UnsupportedModelError, "'axial'.*supported: default, linear"),
        ({"rope_scaling": {"rope_type": "llama3", "factor": 4.0}}, CheckpointError, "low_freq_factor"),
        ({"rope_scaling": {"rope_type": "longrope", "short_factor": [1.0]}}, CheckpointError, "'short_factor'.*8"),
        ({"rope_scaling": {"full_attention": {"rope_type": "default"}}}, UnsupportedModelError, "differ by layer"),
        ({"rope_scaling": "linear"}, CheckpointError, "rope_parameters"),
        ({"rope_theta": "big"}, CheckpointError, "'rope_theta'"),
        ({"head_dim": 15}, CheckpointError, "15 dimensions cannot turn in pairs"),
        ({"partial_rotary_factor": 0.5}, UnsupportedModelError, "partial"),
        ({"use_sliding_window": True}, UnsupportedModelError, "sliding"),
        ({"layer_types": ["full_attention", "sliding_attention"]}, UnsupportedModelError, "sliding"),
        ({"layer_types": ["full_attention", "mamba"]}, UnsupportedModelError, "layer type 'mamba'"),
        ({"layer_types": ["full_attention"]}, CheckpointError, "layer_types must name 2 layers"),
    ],
)
def test_config_json(folder: Path, fields: dict[str, Any], error: type[FlowServeError], words: str) -> None:
    change_config(folder, **fields)
    refuses(folder, error, words)


@pytest.mark.parametrize(
    "fields, error, words",
    [
        ({"use_sliding_window": True, "sliding_window": 0}, CheckpointError, "'sliding_window'"),
        ({"use_sliding_window": True, "max_window_layers": -1}, CheckpointError, "'max_window_layers'"),
        ({"layer_types": ["sliding_attention", "full_attention"]}, CheckpointError, "use_sliding_window is off"),
    ],
)
def test_config_json_of_sliding_windows(
    models: Models, tmp_path: Path, fields: dict[str, Any], error: type[FlowServeError], words: str
) -> None:
    folder = Path(shutil.copytree(models("qwen2"), tmp_path / "model"))
    change_config(folder, **fields)
    refuses(folder, error, words)


def test_config_json_that_is_no_json(folder: Path) -> None:
    for text in ("{", "[]", ""):
        (folder / "config.json").write_text(text)
        refuses(folder, CheckpointError, "config.json")


def test_no_tokenizer(folder: Path) -> None:
    (folder / "tokenizer.json").unlink()
    refuses(folder, TokenizerError, "no tokenizer.json")


def test_a_tokenizer_of_another_model(folder: Path, models: Models) -> None:
    padded = models("llama", vocab_size=512)
    Engine.from_folder(padded, EngineConfig(num_threads=1))
    smaller = models("llama", vocab_size=399)
    refuses(smaller, TokenizerError, "tokenizer has 400 tokens, the model's vocabulary only 399")
    content = json.loads((folder / "tokenizer.json").read_text())
    content["added_tokens"].append({**content["added_tokens"][0], "id": 5000, "content": "<far>"})
    (folder / "tokenizer.json").write_text(json.dumps(content))
    refuses(folder, TokenizerError, "the model's vocabulary only 400")


def test_a_prompt_with_half_a_character(llm: Callable[..., Any]) -> None:
    each = llm()
    with pytest.raises(errors.InvalidPromptError, match="no valid Unicode: surrogates not allowed at character 2"):
        each.generate(["fine", "ab\ud800"], SamplingParams(max_tokens=2))
    assert not each.engine.has_work


def test_files_that_a_folder_may_lack(folder: Path) -> None:
    for name in ("generation_config.json", "tokenizer_config.json", "chat_template.jinja"):
        (folder / name).unlink()
    llm = LLM(folder, num_threads=1)
    assert llm.engine.tokenizer.eos_token_ids, "config.json names one too"
    (output,) = llm.generate("Hello", SamplingParams(temperature=0.0, max_tokens=3))
    assert output.outputs[0].token_ids
    with pytest.raises(errors.ChatTemplateError):
        llm.chat([{"role": "user", "content": "Hello"}])


@pytest.mark.parametrize(
    "options, words",
    [
        ({"quantization": "awq"}, "'awq' is not supported; supported: None"),
        ({"tensor_parallel_size": 2}, "tensor_parallel_size 2 is not supported; supported: 1"),
        ({"dtype": "float16"}, "'float16'.*float32"),
        ({"device": "npu"}, "'npu'.*cpu"),
        ({"max_num_sequences": 0}, "max_num_sequences"),
        ({"num_threads": 0}, "num_threads"),
        ({"max_model_len": "100"}, r"max_model_len must be of type int \| None, got '100'"),
        ({"max_num_sequences": 2.0}, "max_num_sequences must be of type int, got 2.0"),
        ({"num_threads": True}, r"num_threads must be of type int \| None, got True"),
        ({"quantization": ["int8"]}, r"quantization must be of type str \| None, got \['int8'\]"),
        ({"enable_prefix_caching": "no"}, "enable_prefix_caching must be of type bool, got 'no'"),
        ({"speculative_ngram": 3}, r"speculative_ngram must be of type tuple\[int, int\], got 3"),
        ({"speculative_ngram": (1.0, 2)}, r"speculative_ngram must be of type tuple.*got \(1.0, 2\)"),
        ({"context_cache_share": None}, "context_cache_share must be of type float, got None"),
        ({"step_log": 3}, "step_log must be of type str .*, got 3"),
        ({"max_model_len": 513}, "513 is more than the model's 512"),
        ({"max_model_len": 100, "num_kv_blocks": 2, "block_size": 32}, "needs 4 KV blocks.*holds 2"),
        ({"max_model_len": 100, "kv_cache_bytes": 1000}, "needs 4 KV blocks.*holds 0"),
        ({"kv_cache_bytes": 1000}, "hold no sequence"),
        ({"block_size": 2**32}, "block_size must be at most 1024, got 4294967296"),
        ({"block_size": 1025}, "block_size must be at most 1024, got 1025"),
        ({"num_kv_blocks": 10**15}, "num_kv_blocks must be at most 2147483647"),
        ({"max_num_batched_tokens": 2**32}, "max_num_batched_tokens must be at most"),
        ({"target_step_ms": -1.0}, "target_step_ms must be 0"),
        ({"num_kv_blocks": 2**31 - 1, "block_size": 1024}, "no memory of .* bytes for 2147483647 KV blocks: "),
        ({"num_kv_blocks": 2**31 - 1, "block_size": 1024, "cpu_backend": "torch"}, "no memory of .* KV blocks: "),
        ({"host_cache_bytes": 10**17}, "no memory of .* bytes for host_cache_bytes: "),
        ({"host_cache_bytes": 10**30}, "no memory of .* bytes for host_cache_bytes: "),
    ],
)
def test_engine_options(options: dict[str, Any], words: str, models: Models) -> None:
    with pytest.raises(InvalidConfigError, match=words):
        LLM(models(), **options)


def test_context_follows_the_cache(models: Models) -> None:
    assert LLM(models(), num_threads=1, num_kv_blocks=3, block_size=16).engine.max_model_len == 48
    assert LLM(models(), num_threads=1, max_model_len=40).engine.max_model_len == 40


@pytest.mark.parametrize(
    "params",
    [
        {"temperature": -0.1}, {"temperature": float("nan")}, {"temperature": "hot"}, {"temperature": True},
        {"top_p": 0.0}, {"top_p": 1.1}, {"top_k": -2}, {"top_k": 1.5}, {"min_p": -0.1}, {"min_p": 2},
        {"max_tokens": 0}, {"max_tokens": 1.0}, {"min_tokens": -1}, {"seed": "x"}, {"seed": 1.5},
        {"stop": [""]}, {"stop": [1]}, {"stop_token_ids": [-1]}, {"stop_token_ids": ["a"]},
        {"logprobs": -1}, {"logprobs": 101}, {"repetition_penalty": 0.0}, {"presence_penalty": 3.0},
        {"frequency_penalty": float("inf")}, {"n": 0}, {"n": 129}, {"n": 2.0}, {"prompt_logprobs": -1},
        {"prompt_logprobs": 101}, {"prompt_logprobs": True}, {"logit_bias": {3: 101}}, {"logit_bias": {3: "x"}},
        {"logit_bias": {-3: 1}}, {"logit_bias": {"x": 1}}, {"logit_bias": {3: float("nan")}}, {"logit_bias": [3]},
        {"bad_words": [""]}, {"bad_words": [" "]}, {"bad_words": [1]}, {"bad_words": 1}, {"stop": 1},
        {"stop_token_ids": 1}, {"detokenize": 1}, {"include_stop_str_in_output": "yes"}, {"ignore_eos": 1},
        {"skip_special_tokens": None}, {"temperature": 1e46}, {"temperature": 10**400}, {"temperature": 1.1e6},
        {"repetition_penalty": 1e-3}, {"repetition_penalty": 101}, {"stop": ["a"] * 10_001},
        {"stop": ["a" * 60_000, "b" * 60_000]}, {"bad_words": ["a" * 100_001]},
        {"structured_outputs": {"regex": "a"}}, {"structured_outputs": "json"},
    ],
)  # fmt: skip
def test_sampling_params(params: dict[str, Any]) -> None:
    ((name, _),) = params.items()
    with pytest.raises(InvalidSamplingParamsError, match=name):
        SamplingParams(**params)


def test_sampling_params_that_contradict_each_other() -> None:
    with pytest.raises(InvalidSamplingParamsError, match="min_tokens 5 is more than max_tokens 3"):
        SamplingParams(min_tokens=5, max_tokens=3)
    with pytest.raises(InvalidSamplingParamsError, match="min_tokens.*structured_outputs"):
        SamplingParams(min_tokens=5, structured_outputs=StructuredOutputsParams(regex="a"))
    with pytest.raises(InvalidSamplingParamsError, match="n 2 cannot go with temperature 0"):
        SamplingParams(n=2, temperature=0.0)
    with pytest.raises(InvalidSamplingParamsError, match="stop cannot go with detokenize"):
        SamplingParams(stop="a", detokenize=False)
    with pytest.raises(InvalidSamplingParamsError, match="include_stop_str_in_output cannot go with detokenize"):
        SamplingParams(include_stop_str_in_output=True, detokenize=False)
    with pytest.raises(InvalidSamplingParamsError, match="choice must be a list of strings, got 'yes'"):
        StructuredOutputsParams(choice="yes")  # type: ignore[arg-type]
    with pytest.raises(InvalidSamplingParamsError, match="got json, regex"):
        StructuredOutputsParams(json={}, regex="a")


def test_sampling_params_as_json_gives_them() -> None:
    params = SamplingParams(logit_bias={"7": 1, "8": -2.5}, stop=None, bad_words=None)  # type: ignore[arg-type]
    assert params.logit_bias == {7: 1.0, 8: -2.5} and params.stop == params.bad_words == ()
    assert SamplingParams(logit_bias={}).logit_bias is None


@pytest.mark.parametrize(
    "params",
    [
        {}, {"json_object": False}, {"json_object": 1}, {"json": {}, "json_object": True}, {"json": {}, "regex": "a"},
        {"choice": []}, {"choice": [""]}, {"choice": [1]}, {"regex": 1}, {"json": 1},
    ],
)  # fmt: skip
def test_structured_outputs_params(params: dict[str, Any]) -> None:
    with pytest.raises(InvalidSamplingParamsError, match="structured_outputs"):
        StructuredOutputsParams(**params)


def test_stop_may_be_one_string_or_many() -> None:
    assert SamplingParams(stop="a").stop == ("a",) and SamplingParams(stop=["a", "b"]).stop == ("a", "b")
    assert hash(SamplingParams(stop=["a"])) == hash(SamplingParams(stop="a"))


@pytest.mark.parametrize("name", [n for n, v in vars(errors).items() if isinstance(v, type)])
def test_errors_cross_processes(name: str) -> None:
    error = getattr(errors, name)("what went wrong")
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is type(error) and str(copy) == "what went wrong" and isinstance(copy, FlowServeError)
    assert type(error).__doc__
