"""Encoders against transformers, pooled as sentence-transformers would; long, odd and wrong input."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer as RustTokenizer
from tokenizers.processors import TemplateProcessing

from flowserve import LLM, EmbeddingModel, Engine, EngineConfig
from flowserve.embedding_model import EmbeddingBatch
from flowserve.errors import (
    CheckpointError,
    FlowServeError,
    InvalidConfigError,
    InvalidPromptError,
    ModelNotFoundError,
    PromptTooLongError,
    TokenizerError,
    UnsupportedArchitectureError,
    UnsupportedModelError,
)
from flowserve.tokenizer import MAX_CHARS
from tests.tiny_models import make_model
from tests.unit.flowserve.oracle import EXAMPLES

SIZES: dict[str, Any] = {
    "vocab_size": 400, "hidden_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 56,
    "max_position_embeddings": 90,
}  # fmt: skip
CLS, SEP = 1, 2  # the ids of <|im_start|> and <|im_end|> in the tiny tokenizer


def write_encoder(
    folder: Path, kind: str = "BertModel", *, dtype: torch.dtype = torch.float32, seed: int = 0, **config: Any
) -> Any:
    """A random encoder with a tokenizer; every weight, bias and norm is random. Returns transformers' model."""
    import transformers

    torch.manual_seed(seed)
    config_class = getattr(transformers, kind.replace("ForMaskedLM", "Model")).config_class
    model = getattr(transformers, kind)(config_class(**SIZES | config))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.normal_(1.0 if "LayerNorm.weight" in name else 0.0, 0.2)
        model = model.to(dtype)
    model.save_pretrained(folder)
    original = make_model(folder / "tokens", "llama", num_hidden_layers=1)
    tokenizer = RustTokenizer.from_file(str(original / "tokenizer.json"))
    tokenizer.post_processor = TemplateProcessing(
        single="<|im_start|> $A <|im_end|>", special_tokens=[("<|im_start|>", CLS), ("<|im_end|>", SEP)]
    )
    tokenizer.save(str(folder / "tokenizer.json"))
    shutil.rmtree(original)
    model = model.to(torch.float32).eval()
    return getattr(model, model.base_model_prefix, model)


def sentence_files(folder: Path, poolings: list[str], normalize: bool, **sentence: Any) -> None:
    """What sentence-transformers writes."""
    modules = [("Transformer", ""), ("Pooling", "1_Pooling")] + ([("Normalize", "2_Normalize")] if normalize else [])
    (folder / "modules.json").write_text(
        json.dumps(
            [
                {"idx": index, "name": str(index), "path": path, "type": f"sentence_transformers.models.{kind}"}
                for index, (kind, path) in enumerate(modules)
            ]
        )
    )
    (folder / "1_Pooling").mkdir()
    fields = {
        f"pooling_mode_{name}": name in poolings
        for name in (
            "cls_token",
            "mean_tokens",
            "max_tokens",
            "mean_sqrt_len_tokens",
            "weightedmean_tokens",
            "lasttoken",
        )
    }
    content = {"word_embedding_dimension": 48, **fields, "include_prompt": True}
    (folder / "1_Pooling" / "config.json").write_text(json.dumps(content))
    if sentence:
        (folder / "sentence_bert_config.json").write_text(json.dumps(sentence))


def pooled_by_hand(states: torch.Tensor, poolings: list[str], normalize: bool) -> torch.Tensor:
    """states [L, d] of one text."""
    length = len(states)
    weights = torch.arange(1, length + 1)[:, None] / sum(range(1, length + 1))
    each = {
        "cls_token": states[0], "max_tokens": states.max(0).values, "mean_tokens": states.mean(0),
        "mean_sqrt_len_tokens": states.sum(0) / length**0.5, "weightedmean_tokens": (states * weights).sum(0),
        "lasttoken": states[-1],
    }  # fmt: skip
    vector = torch.cat([value for name, value in each.items() if name in poolings])
    return vector / vector.norm() if normalize else vector


def expected(model: Any, prompt: list[int], poolings: list[str], normalize: bool) -> torch.Tensor:
    with torch.no_grad():
        states = model(torch.tensor([prompt]), attention_mask=torch.ones(1, len(prompt), dtype=torch.long))
    return pooled_by_hand(states.last_hidden_state[0], poolings, normalize)


KINDS = ["BertModel", "RobertaModel", "XLMRobertaModel", "BertForMaskedLM", "RobertaForMaskedLM"]
POOLINGS = ["cls_token", "max_tokens", "mean_tokens", "mean_sqrt_len_tokens", "weightedmean_tokens", "lasttoken"]


@settings(
    max_examples=2 * EXAMPLES,
    derandomize=True,
    deadline=None,
    suppress_health_check=list(HealthCheck),
    phases=(Phase.generate,),
)
@given(data=st.data())
def test_random_encoders(data: st.DataObject) -> None:
    kind = data.draw(st.sampled_from(KINDS), "kind")
    heads = data.draw(st.integers(1, 6), "heads")
    config = {
        "num_attention_heads": heads,
        "hidden_size": heads * data.draw(st.sampled_from([4, 8, 16]), "head size"),
        "num_hidden_layers": data.draw(st.integers(1, 4), "layers"),
        "hidden_act": data.draw(st.sampled_from(["gelu", "gelu_new", "relu", "silu", "gelu_pytorch_tanh"]), "act"),
        "layer_norm_eps": data.draw(st.sampled_from([1e-12, 1e-5]), "eps"),
        "type_vocab_size": data.draw(st.sampled_from([1, 2]), "types"),
    }
    poolings = data.draw(st.lists(st.sampled_from(POOLINGS), min_size=1, max_size=2, unique=True), "poolings")
    normalize = data.draw(st.booleans(), "normalize")
    dtype = data.draw(st.sampled_from([torch.float32, torch.bfloat16, torch.float16]), "dtype")
    lengths = data.draw(st.lists(st.integers(1, 80), min_size=1, max_size=12), "lengths")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        seed = data.draw(st.integers(0, 1000), "seed")
        model = write_encoder(folder, kind, dtype=dtype, seed=seed, **config)
        sentence_files(folder, poolings, normalize)
        ours = EmbeddingModel(folder, num_threads=1)
        prompts = [torch.randint(0, 400, (length,)).tolist() for length in lengths]
        vectors = ours.embed(prompts)
    for prompt, vector in zip(prompts, vectors, strict=True):
        want = expected(model, prompt, poolings, normalize)
        assert len(vector) == ours.dimension == len(want)
        torch.testing.assert_close(torch.tensor(vector), want, atol=1e-3 * float(want.abs().max()), rtol=0.0)


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    """A folder as sentence-transformers writes it (mean, normalized), and transformers' model."""
    folder = tmp_path_factory.mktemp("encoder")
    model = write_encoder(folder)
    sentence_files(folder, ["mean_tokens"], True, max_seq_length=40, do_lower_case=False)
    return folder, model


@pytest.fixture
def damaged(encoder: tuple[Path, Any], tmp_path: Path) -> Path:
    return Path(shutil.copytree(encoder[0], tmp_path / "encoder"))


def change(path: Path, **fields: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))


TEXTS = ["The quick brown fox", "", "Grüße 你好 🙂", "a " * 15, "jumps over", "The quick brown fox"]


def test_texts_of_all_kinds_in_their_order(encoder: tuple[Path, Any]) -> None:
    folder, model = encoder
    ours = EmbeddingModel(folder, num_threads=1)
    vectors = ours.embed(TEXTS)
    for text, vector in zip(TEXTS, vectors, strict=True):
        prompt = ours.tokenizer.encode(text)
        assert prompt[0] == CLS and prompt[-1] == SEP
        torch.testing.assert_close(torch.tensor(vector), expected(model, prompt, ["mean_tokens"], True))
        assert ours.embed(text)[0] == pytest.approx(vector, abs=1e-6)
    assert vectors[0] == pytest.approx(vectors[-1], abs=1e-6) and ours.embed([]) == []


def test_what_the_folder_says_of_texts(damaged: Path) -> None:
    plain = EmbeddingModel(damaged, num_threads=1)
    asked = plain.embed("query: the fox")
    change(damaged / "sentence_bert_config.json", do_lower_case=True)
    prompts = {"prompts": {"query": "query: "}, "default_prompt_name": "query"}
    (damaged / "config_sentence_transformers.json").write_text(json.dumps(prompts))
    assert EmbeddingModel(damaged, num_threads=1).embed("The FOX") == asked


def test_a_folder_without_sentence_files_is_pooled_by_the_mean(damaged: Path, encoder: tuple[Path, Any]) -> None:
    (damaged / "modules.json").unlink()
    ours = EmbeddingModel(damaged, num_threads=1)
    assert ours.max_length == 90
    want = expected(encoder[1], [CLS, 5, 6, SEP], ["mean_tokens"], False)
    torch.testing.assert_close(torch.tensor(ours.embed([[CLS, 5, 6, SEP]])[0]), want)


def test_names_of_old_checkpoints(damaged: Path, encoder: tuple[Path, Any]) -> None:
    from safetensors.torch import load_file, save_file

    tensors = load_file(damaged / "model.safetensors")
    old = {"LayerNorm.weight": "LayerNorm.gamma", "LayerNorm.bias": "LayerNorm.beta"}
    for new, name in old.items():
        tensors = {key.replace(new, name): tensor for key, tensor in tensors.items()}
    save_file(tensors, damaged / "model.safetensors")
    text = "the same"
    assert EmbeddingModel(damaged, num_threads=1).embed(text) == EmbeddingModel(encoder[0], num_threads=1).embed(text)


def test_texts_that_are_too_long(encoder: tuple[Path, Any]) -> None:
    ours = EmbeddingModel(encoder[0], num_threads=1)
    long = "0 1 2 3 4 5 6 7 8 9 " * 10
    assert ours.max_length == 40 and len(ours.tokenizer.encode(long)) > 100
    with pytest.raises(PromptTooLongError, match=r"text 1 has \d+ tokens, the model takes 40"):
        ours.embed(["short", long])
    with pytest.raises(PromptTooLongError, match="text 0 has 41 tokens, the model takes 40"):
        ours.embed([[5] * 41])
    (cut,) = ours.tokenize(long, truncate=True)
    assert len(cut) == 40 and cut[0] == CLS and cut[-1] == SEP and cut[:39] == ours.tokenizer.encode(long)[:39]
    assert len(ours.tokenizer.encode(long)) > 100, "cutting one text cuts no other"
    assert ours.embed([long], truncate=True) == ours.embed([cut])
    assert EmbeddingModel(encoder[0], num_threads=1, max_length=90).max_length == 90
    with pytest.raises(InvalidConfigError, match="max_length 91 is more than the model's 90 positions"):
        EmbeddingModel(encoder[0], max_length=91)


def test_a_text_that_cannot_fit_is_not_tokenized(encoder: tuple[Path, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    ours = EmbeddingModel(encoder[0], num_threads=1)

    def encode(*arguments: Any, **options: Any) -> Any:
        raise AssertionError("it was read")

    monkeypatch.setattr(ours.tokenizer, "_encoding", encode)
    with pytest.raises(PromptTooLongError, match="text 1: prompt of 7000 characters does not fit the context of 40"):
        ours.embed([[CLS, SEP], "hello! " * 1000])
    with pytest.raises(PromptTooLongError, match=r"text 0: a text of \d+ characters is more than is read at a time"):
        ours.embed("a" * (MAX_CHARS + 1), truncate=True)
    with pytest.raises(AssertionError, match="it was read"):
        ours.embed("hello! " * 1000, truncate=True)


@pytest.mark.parametrize(
    "texts, words",
    [
        ([[]], "text 0 is empty"),
        (5, "texts must be a text or a list of texts or token ids, got 5"),
        (["a", None], "text 1 must be a text or token ids, got None"),
        (b"abc", "texts must be a text or a list of texts or token ids, got b'abc'"),
        (["a", b"abc"], "text 1 must be a text or token ids, got b'abc'"),
        ([[5], [400]], "text 1: token id 400 is not in the vocabulary of 400"),
        ([[-1]], "text 0: token id -1"),
        ([[True]], "text 0: token id True"),
        ([["a"]], "text 0: token id 'a'"),
        (["a", "\ud800"], "text 1: the text is no valid Unicode: surrogates not allowed at character 0"),
    ],
)
def test_texts_that_are_none(texts: Any, words: str, encoder: tuple[Path, Any]) -> None:
    with pytest.raises(InvalidPromptError, match=words):
        EmbeddingModel(encoder[0], num_threads=1).embed(texts)


@pytest.mark.parametrize(
    "file, fields, error, words",
    [
        ("config.json", {"architectures": ["T5Model"]}, UnsupportedArchitectureError, "'T5Model'.*Llama.*BertModel"),
        ("config.json", {"hidden_act": "mish"}, UnsupportedModelError, "'mish'"),
        ("config.json", {"position_embedding_type": "relative_key"}, UnsupportedModelError, "'relative_key'"),
        ("config.json", {"is_decoder": True}, UnsupportedModelError, "is_decoder"),
        ("config.json", {"num_attention_heads": 5}, CheckpointError, "5 heads do not share hidden_size 48"),
        ("config.json", {"hidden_size": None}, CheckpointError, "'hidden_size'"),
        ("config.json", {"vocab_size": 399}, TokenizerError, "tokenizer has 400 tokens.*only 399"),
        ("config.json", {"vocab_size": 401}, CheckpointError, "word_embeddings.weight' has shape .*401, 48"),
        ("config.json", {"num_hidden_layers": 3}, CheckpointError, "encoder.layer.2.attention.self.query.weight"),
        ("1_Pooling/config.json", {"pooling_mode_mean_tokens": False}, CheckpointError, "no pooling_mode is on"),
        ("1_Pooling/config.json", {"pooling_mode_magic": True}, UnsupportedModelError, "'pooling_mode_magic'"),
        ("sentence_bert_config.json", {"max_seq_length": -2}, CheckpointError, "'max_seq_length'"),
    ],
)
def test_folders_that_cannot_run(damaged: Path, file: str, fields: Any, error: Any, words: str) -> None:
    change(damaged / file, **fields)
    with pytest.raises(error, match=words):
        EmbeddingModel(damaged, num_threads=1)


def test_vectors_that_are_no_numbers_are_told(damaged: Path) -> None:
    from safetensors.torch import load_file, save_file

    tensors = load_file(damaged / "model.safetensors")
    tensors["embeddings.LayerNorm.weight"] *= 1e38
    save_file(tensors, damaged / "model.safetensors")
    with pytest.raises(FlowServeError, match="no numbers"):
        EmbeddingModel(damaged, num_threads=1).embed("a")


def test_modules_that_are_not_known(damaged: Path) -> None:
    modules = json.loads((damaged / "modules.json").read_text())
    (damaged / "modules.json").write_text(json.dumps([*modules, {"type": "a.b.Dense", "path": "3_Dense"}]))
    with pytest.raises(UnsupportedModelError, match="module 'Dense' is not supported"):
        EmbeddingModel(damaged)
    for text, words in (("{}", "expected a JSON list"), ('[{"path": ""}]', "a type and a path"), ("[", "modules.json")):
        (damaged / "modules.json").write_text(text)
        with pytest.raises(CheckpointError, match=words):
            EmbeddingModel(damaged)
    (damaged / "modules.json").write_text(json.dumps(modules))
    prompts = {"prompts": {}, "default_prompt_name": "query"}
    (damaged / "config_sentence_transformers.json").write_text(json.dumps(prompts))
    with pytest.raises(CheckpointError, match="default_prompt_name 'query' is none of its prompts"):
        EmbeddingModel(damaged)


def test_an_encoder_does_not_generate(encoder: tuple[Path, Any]) -> None:
    with pytest.raises(UnsupportedArchitectureError, match="'BertModel' is an encoder.*EmbeddingModel"):
        Engine.from_folder(encoder[0], EngineConfig(num_threads=1))
    with pytest.raises(ModelNotFoundError):
        EmbeddingModel(encoder[0] / "nowhere")


DECODERS = {
    "llama": {}, "mistral": {"sliding_window": 9}, "phi3": {"partial_rotary_factor": 0.5},
    "qwen2": {"use_sliding_window": True, "sliding_window": 20, "max_window_layers": 1}, "qwen3": {},
}  # fmt: skip


@pytest.mark.parametrize("kind", ["CausalLM", "Model"])
@pytest.mark.parametrize("architecture", DECODERS)
def test_decoders_embed_too(architecture: str, kind: str, tmp_path: Path) -> None:
    """As whole folders, and as those of embedding models, which have no head and a level of names less."""
    from transformers import AutoModel

    make_model(tmp_path / "whole", architecture, **DECODERS[architecture])
    model = AutoModel.from_pretrained(tmp_path / "whole", dtype=torch.float32).eval()
    folder = tmp_path / "whole"
    if kind == "Model":
        folder = tmp_path / "bare"
        model.save_pretrained(folder)
        shutil.copy(tmp_path / "whole" / "tokenizer.json", folder)
    prompts = [torch.randint(0, 400, (length,)).tolist() for length in (1, 2, 31, 32, 33, 64, 65, 200, 9, 9)]
    ours = EmbeddingModel(folder, num_threads=1)
    for prompt, vector in zip(prompts, ours.embed(prompts), strict=True):
        want = expected(model, prompt, ["lasttoken"], True)
        torch.testing.assert_close(torch.tensor(vector), want, atol=1e-3 * float(want.abs().max()), rtol=0.0)
    sentence_files(folder, ["mean_tokens"], False)
    for prompt, vector in zip(prompts, EmbeddingModel(folder, num_threads=1).embed(prompts), strict=True):
        want = expected(model, prompt, ["mean_tokens"], False)
        torch.testing.assert_close(torch.tensor(vector), want, atol=1e-3 * float(want.abs().max()), rtol=0.0)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("quantization", [None, "int8", "int4"])
def test_a_text_in_pieces_has_the_vectors_of_one_piece(
    encoder: tuple[Path, Any], tmp_path: Path, quantization: str | None, dtype: str
) -> None:
    """Of a part of the tokens and a layer each, whatever is pooled; texts beside it, and windows, included."""
    torch.manual_seed(3)
    folders = []
    for poolings in (["cls_token", "mean_tokens"], ["lasttoken"], ["weightedmean_tokens", "max_tokens"]):
        folders.append(tmp_path / poolings[0])
        shutil.copytree(encoder[0], folders[-1])
        shutil.rmtree(folders[-1] / "1_Pooling")
        sentence_files(folders[-1], poolings, False)
        for architecture in ("mistral", "qwen3") if poolings != ["lasttoken"] else ("llama",):
            folders.append(make_model(tmp_path / f"{architecture} {poolings[0]}", architecture))
            sentence_files(folders[-1], poolings, False)
    for folder in folders:
        model = EmbeddingModel(folder, num_threads=1, dtype=dtype, quantization=quantization)
        lengths = [length for length in (1, 2, 33, 66, 67, 88, 300) if length <= model.max_length]
        prompts = [torch.randint(5, 400, (length,)).tolist() for length in lengths]
        whole, states = in_pieces(model, prompts, None)
        pieces, parts = in_pieces(model, prompts, 1)
        assert parts > states
        # A last bit more or less may round an input of an 8-bit product the other way.
        share = 5e-2 if dtype == "bfloat16" else 1e-4 if quantization is None else 1e-2
        least = float(whole.abs().max()) * share
        torch.testing.assert_close(pieces, whole, atol=least, rtol=0.0)
        torch.testing.assert_close(torch.tensor(model.embed(prompts)), whole, atol=least, rtol=0.0)


def in_pieces(model: EmbeddingModel, prompts: list[list[int]], multiplications: int | None) -> tuple[torch.Tensor, int]:
    """Vectors of one batch, and the number of its pieces."""
    lengths = [len(prompt) for prompt in prompts]
    rows = torch.tensor([prompt + [0] * (max(lengths) - len(prompt)) for prompt in prompts])
    batch = EmbeddingBatch(model._model.pieces(rows, lengths, multiplications), lengths, model._pooling)
    num_pieces = 1
    while not batch.advance(0.0):
        num_pieces += 1
    return torch.tensor(batch.vectors), num_pieces


WORDED = [text for text in TEXTS if text]


def likeness(one: list[list[float]], other: list[list[float]]) -> float:
    """The smallest cosine of vectors of the same text."""
    return float(torch.nn.functional.cosine_similarity(torch.tensor(one), torch.tensor(other)).min())


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize(("quantization", "least"), [("int8", 0.99), ("int4", 0.9)])
def test_quantized_vectors_are_like_exact_ones(
    encoder: tuple[Path, Any], models: Callable[..., Path], quantization: str, least: float, dtype: str
) -> None:
    """And those of a text do not depend on the texts beside it."""
    for folder in (encoder[0], models("qwen3")):
        exact = EmbeddingModel(folder, num_threads=1).embed(WORDED)
        model = EmbeddingModel(folder, num_threads=1, quantization=quantization, dtype=dtype)
        vectors = model.embed(WORDED)
        assert vectors != exact and likeness(vectors, exact) > least
        if dtype == "float32":
            alone = [model.embed(text)[0] for text in WORDED]
            torch.testing.assert_close(torch.tensor(alone), torch.tensor(vectors), atol=1e-4, rtol=0.0)
    with pytest.raises(InvalidConfigError, match="quantization 'int2'"):
        EmbeddingModel(models(), quantization="int2")


def test_a_folder_that_is_meant_for_embeddings_does_not_generate(models: Callable[..., Path], tmp_path: Path) -> None:
    """Neither in an LLM nor behind a server: where it is meant for them stands in its files, not in who reads them."""
    folder = tmp_path / "embedding"
    shutil.copytree(models("qwen3"), folder)
    sentence_files(folder, ["lasttoken"], True)
    with pytest.raises(UnsupportedModelError, match=r"embedding' embeds \(EmbeddingModel, flowserve serve\)"):
        LLM(folder)
