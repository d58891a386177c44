"""Who is measured by `flowserve bench`: scripts, each run by the Python that has what it needs."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from ..errors import InvalidConfigError

SCRIPTS = Path(__file__).parent / "scripts"
OURS = "FlowServe"
PRECISIONS = ("fp32", "int8", "int4")
WORKS = ("one", "sixteen", "shared", "prompt", "fresh", "sleep", "cost")
OWN_PROCESS = ("fresh", "sleep", "cost")
"""What a process is started for; one more does the other works, one after the other."""
OUR_WORKS = ("sleep", "cost")
"""What no peer does."""
PEER_ENVIRONMENTS = Path(".bench-peers")
"""Made by `make bench-engine-peers`."""


@dataclass(frozen=True)
class Conversion:
    """Of a Hugging Face folder to what a peer reads. name: of the result, behind the model's.

    widened: the peer's converter wants float32.
    """

    script: str
    environment: str
    name: str
    arguments: tuple[str, ...]
    widened: bool = False


@dataclass(frozen=True)
class Subject:
    """precision: of its weights; it is compared to FlowServe's and the bound of the same.

    environment: of a peer, whose name it is under PEER_ENVIRONMENTS; empty for this Python.
    works: those that it can do.  spared: those of a large model that take it so long that they are left out.
    widened: it reads a float32 checkpoint, whatever the model's own type.  models: only these; none = all.
    """

    who: str
    script: str
    precision: str
    environment: str = ""
    conversion: Conversion | None = None
    works: tuple[str, ...] = WORKS
    spared: tuple[str, ...] = ()
    options: tuple[str, ...] = ()
    widened: bool = False
    models: tuple[str, ...] = ()

    @property
    def is_ours(self) -> bool:
        return not self.environment

    @property
    def library(self) -> str:
        """Whose import is the memory that its processes start with."""
        return LIBRARIES.get(self.environment, "torch")

    def python(self, environments: Path) -> str:
        return python_of(self.environment, environments)


def python_of(environment: str, environments: Path) -> str:
    inside = environments.absolute() / environment / "bin" / "python"
    return str(inside) if environment else sys.executable


_UNFITTED = tuple(work for work in WORKS if work != "cost")
_STATIC = ("one", "sixteen", "prompt", "fresh")
"""Without `shared`: of peers that share nothing between sequences."""
_THREADS = str(len(os.sched_getaffinity(0)))


def _openvino(precision: str) -> Conversion:
    name = f"openvino-{precision}"
    return Conversion("convert_openvino.py", "engine-openvino-convert", name, (precision,), widened=True)


def _llamacpp(kind: str) -> Conversion:
    return Conversion("convert_llamacpp.py", "engine-llamacpp", f"{kind}.gguf", (kind,))


_CT2 = Conversion("convert_ctranslate2.py", "engine-transformers", "ctranslate2", ("float32",), widened=True)
_ONNX = Conversion(
    "convert_onnxruntime.py", "engine-transformers", "onnxruntime-int4", ("int4", _THREADS), widened=True
)
_LLAMACPP, _OPENVINO, _TRANSFORMERS = "engine-llamacpp", "engine-openvino", "engine-transformers"
_CTRANSLATE2, _ONNXRUNTIME = "engine-ctranslate2", "engine-onnxruntime"
LIBRARIES = {
    _LLAMACPP: "llama_cpp",
    _OPENVINO: "openvino_genai",
    _CTRANSLATE2: "ctranslate2",
    _ONNXRUNTIME: "onnxruntime_genai",
}
"""Of the environments whose subjects do not compute with torch."""
_VLLM = "engine-vllm"
_TORCH, _SPECULATING = ("--backend", "torch"), ("--speculative", "4")

_LONG = ("sixteen", "shared", "prompt")
SUBJECTS = (
    Subject(f"{OURS} int8", "on_flowserve.py", "int8"),
    Subject("OpenVINO GenAI int8", "on_openvino.py", "int8", _OPENVINO, _openvino("int8")),
    Subject(f"{OURS} int4", "on_flowserve.py", "int4"),
    Subject("llama.cpp Q4_0", "on_llamacpp.py", "int4", _LLAMACPP, _llamacpp("q4_0"), spared=("sixteen", "prompt")),
    Subject("ONNX Runtime GenAI int4", "on_onnxruntime.py", "int4", _ONNXRUNTIME, _ONNX, _STATIC, spared=_LONG),
    Subject(f"{OURS} fp32", "on_flowserve.py", "fp32", spared=("shared",), widened=True),
    Subject("OpenVINO GenAI fp32", "on_openvino.py", "fp32", _OPENVINO, _openvino("fp32"), spared=("shared",)),
    Subject("vLLM fp32", "on_vllm.py", "fp32", _VLLM, widened=True),
    Subject(f"{OURS} bf16 checkpoint", "on_flowserve.py", "fp32", spared=("shared",), models=("small",)),
    Subject("CTranslate2 int8", "on_ctranslate2.py", "int8", _CTRANSLATE2, _CT2, spared=("shared", "prompt")),
    Subject("llama.cpp Q8_0", "on_llamacpp.py", "int8", _LLAMACPP, _llamacpp("q8_0"), spared=("sixteen", "prompt")),
    Subject("llama.cpp F32", "on_llamacpp.py", "fp32", _LLAMACPP, _llamacpp("f32"), spared=_LONG),
    Subject("transformers int8", "on_transformers.py", "int8", _TRANSFORMERS, works=_STATIC, widened=True),
    Subject(
        "transformers fp32", "on_transformers.py", "fp32", _TRANSFORMERS, None, _STATIC, ("sixteen",), widened=True
    ),
    Subject(f"{OURS} torch int8", "on_flowserve.py", "int8", works=_UNFITTED, spared=("shared",), options=_TORCH),
    Subject(
        f"{OURS} torch fp32", "on_flowserve.py", "fp32", works=_UNFITTED, spared=_LONG, options=_TORCH, widened=True
    ),
    Subject(f"{OURS} int8, speculating", "on_flowserve.py", "int8", works=("one",), options=_SPECULATING),
    Subject(f"{OURS} int4, speculating", "on_flowserve.py", "int4", works=("one",), options=_SPECULATING),
)


def chosen(named: Iterable[str], environments: Path | None) -> Iterator[Subject]:
    """Those with one of `named` in their name (all, where none is named), as far as they are there.

    environments: where the peers are; None for no peers. Raises InvalidConfigError for a name that nobody has.
    """
    wanted = [name.lower() for name in named]
    for name in wanted:
        if not any(name in subject.who.lower() for subject in SUBJECTS):
            raise InvalidConfigError(f"nobody is called {name!r}; there are: {', '.join(s.who for s in SUBJECTS)}")
    for subject in SUBJECTS:
        if wanted and not any(name in subject.who.lower() for name in wanted):
            continue
        if subject.is_ours or (environments and is_installed(subject.environment, environments)):
            yield subject


def is_installed(environment: str, environments: Path) -> bool:
    return (environments / environment / ".installed").exists()


def missing(environments: Path) -> list[str]:
    """Environments that nobody has made."""
    names = [subject.environment for subject in SUBJECTS if subject.environment]
    names += [subject.conversion.environment for subject in SUBJECTS if subject.conversion]
    return [name for name in dict.fromkeys(names) if not is_installed(name, environments)]
