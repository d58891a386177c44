"""A Hugging Face folder to CTranslate2's format: FOLDER TARGET float32|int8."""

import json
import sys
from pathlib import Path

from ctranslate2.converters import TransformersConverter

source, target, precision = sys.argv[1:]
TransformersConverter(source).convert(target, quantization=None if precision == "float32" else precision)
path = Path(target, "config.json")
config = json.loads(path.read_text())
for name in ("bos_token", "eos_token", "unk_token"):  # it writes null where there is none, and does not load that
    config[name] = config.get(name) or "<|endoftext|>"
path.write_text(json.dumps(config))
