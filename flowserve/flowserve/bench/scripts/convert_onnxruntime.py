"""A Hugging Face folder to ONNX Runtime GenAI's format, by its model builder: FOLDER TARGET fp32|int4 THREADS."""

import json
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

source, target, precision, threads = sys.argv[1:]
with TemporaryDirectory() as cache:
    builder = [sys.executable, "-m", "onnxruntime_genai.models.builder", "-m", "bench", "-e", "cpu", "-c", cache]
    subprocess.run([*builder, "-i", source, "-o", target, "-p", precision], check=True)
path = Path(target, "genai_config.json")
config = json.loads(path.read_text())
config["model"]["decoder"]["session_options"]["intra_op_num_threads"] = int(threads)
path.write_text(json.dumps(config, indent=1))
