"""A Hugging Face folder to OpenVINO's format, by optimum-intel: FOLDER TARGET fp32|int8."""

import os
import subprocess
import sys
from pathlib import Path

source, target, precision = sys.argv[1:]
command = [Path(sys.executable).with_name("optimum-cli"), "export", "openvino", "-m", source]
options = ["--task", "text-generation-with-past", "--weight-format", precision, target]
sys.exit(subprocess.run([*command, *options], env={**os.environ, "HF_HUB_OFFLINE": "1"}).returncode)
