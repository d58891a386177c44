"""What cannot be loaded or asked: the caller gets a typed error, and the next request works."""

from __future__ import annotations

import json
import math
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import deepserve
from deepserve._current_client import current_client
from deepserve.errors import InvalidModelOption, ModelError, ModelLoadError, PromptTooLongError
from deepserve.protocol.specs import function_id
from tests.waiting import wait_for


@pytest.fixture
def broken(folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(folder, tmp_path / "broken"))


def test_missing_folder(llm: deepserve.Model, tmp_path: Path) -> None:
    with pytest.raises(ModelLoadError, match="is no folder"):
        deepserve.Model("missing", source=tmp_path / "none").chat("hi")
    assert llm.generate("hi", max_tokens=1, temperature=0)


def test_truncated_weights(llm: deepserve.Model, broken: Path) -> None:
    weights = broken / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:10_000])
    with pytest.raises(ModelLoadError, match="model.safetensors"):
        deepserve.Model("truncated", source=broken).chat("hi")
    assert llm.generate("hi", max_tokens=1, temperature=0)


def test_a_model_that_does_not_fit_into_memory(llm: deepserve.Model, broken: Path) -> None:
    swell(broken, 1 << 33)  # 4 TiB of nothing
    with pytest.raises(ModelLoadError, match="does not fit.*4096.[0-9] GiB at least"):
        deepserve.Model("huge", source=broken).chat("hi")
    assert llm.generate("hi", max_tokens=1, temperature=0)


def swell(folder: Path, vocab_size: int) -> None:
    """Another number of tokens: what the files hold for them is a hole, which takes no room on the disk."""
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "vocab_size": vocab_size}))
    weights = folder / "model.safetensors"
    content = weights.read_bytes()
    header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    end = 0
    for name in header.keys() - {"__metadata__"}:
        entry = header[name]
        if name in ("model.embed_tokens.weight", "lm_head.weight"):
            entry["shape"][0] = vocab_size
        size = 4 * math.prod(entry["shape"])
        entry["data_offsets"], end = [end, end + size], end + size
    text = json.dumps(header).encode()
    weights.write_bytes(len(text).to_bytes(8, "little") + text)
    os.truncate(weights, 8 + len(text) + end)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"max_model_len": 513}, "max_model_len=513 is more than the model's 512 positions"),
        ({"tensor_parallel": 2}, "tensor_parallel=2 is not supported; supported: 1"),
        ({"memory": 64}, "memory=64 MiB is too small: at least .* MiB are needed"),
    ],
)
def test_an_option_that_the_model_refuses(
    llm: deepserve.Model, folder: Path, options: dict[str, Any], says: str
) -> None:
    refused = deepserve.Model("refused", source=folder, **options)
    for ask in (refused.generate, refused.embed):
        with pytest.raises(InvalidModelOption, match=f"^Model 'refused': {says}"):
            ask("hi")
    assert llm.generate("hi", max_tokens=1, temperature=0)


ON_A_DEVICE = """
import sys, deepserve

if __name__ == "__main__":
    small = deepserve.Model("small", source=sys.argv[1], accelerator="npu", memory=64)
    try:
        small.generate("hi")
    except deepserve.InvalidModelOption as error:
        print(error)
"""


def test_too_little_memory_beside_a_pretended_device(folder: Path, tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(ON_A_DEVICE)
    environment = {**os.environ, "DEEPSERVE_DEVICES": "npu:910c@cpu"}
    command = [sys.executable, str(script), str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, env=environment)
    assert done.stdout.startswith("Model 'small': memory=64 MiB is too small: at least "), done


def test_unknown_architecture(llm: deepserve.Model, broken: Path) -> None:
    config = json.loads((broken / "config.json").read_text())
    (broken / "config.json").write_text(json.dumps({**config, "architectures": ["MambaForCausalLM"]}))
    with pytest.raises(ModelLoadError, match="MambaForCausalLM"):
        deepserve.Model("unknown", source=broken).generate("hi")
    assert llm.generate("hi", max_tokens=1, temperature=0)


def test_missing_tokenizer(llm: deepserve.Model, broken: Path) -> None:
    (broken / "tokenizer.json").unlink()
    with pytest.raises(ModelLoadError, match="tokenizer.json"):
        list(deepserve.Model("mute", source=broken).stream("hi"))
    assert llm.generate("hi", max_tokens=1, temperature=0)


def test_a_mended_folder_works_under_the_same_name(broken: Path) -> None:
    config = (broken / "config.json").read_text()
    (broken / "config.json").write_text("{")
    mended = deepserve.Model("mended", source=broken)
    with pytest.raises(ModelLoadError):
        mended.generate("hi", max_tokens=1, temperature=0)
    wait_for(lambda: not loading(mended))  # the tokenizer has told it; the engine's template finds it broken, too
    (broken / "config.json").write_text(config)
    assert mended.generate("hi", max_tokens=1, temperature=0)


def loading(llm: deepserve.Model) -> bool:
    """Whether a process is still reading its folder."""
    entries = current_client().query("status")
    model = function_id(llm.spec)
    return any(each["function_id"] == model for kind in ("templates", "pods") for each in entries[kind])


def test_prompt_too_long(llm: deepserve.Model) -> None:
    for ask in (llm.chat, llm.generate, lambda prompt: list(llm.stream(prompt))):
        with pytest.raises(PromptTooLongError, match="tiny"):
            ask("word " * 2000)
    assert llm.generate("hi", max_tokens=1, temperature=0)


def test_messages_that_the_template_refuses(llm: deepserve.Model) -> None:
    late_system = [{"role": "user", "content": "hi"}, {"role": "system", "content": "Be brief."}]
    with pytest.raises(ModelError, match="a system message must come first"):
        llm.chat(late_system)
    assert llm.generate("hi", max_tokens=1, temperature=0)
