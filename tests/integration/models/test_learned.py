"""What is known of a deployed model outlives its controller: the next one loads it ahead, and knows what that takes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from deepserve_controller.core.demand_forecast import LEAST_GAP_S

FIRST = """
import sys, time
import deepserve
from deepserve.cli.deploy import deploy_app
from deepserve._current_client import current_client

state, folder, pause_s = sys.argv[1:]
deepserve.init(state=state)
llm = deepserve.Model("seldom", source=folder)
deploy_app(current_client(), deepserve.App("models"), "models", [llm])
for _ in range(3):
    llm.generate("The quick", max_tokens=2)
    time.sleep(float(pause_s))
"""
SECOND = """
import sys, time
import deepserve
from deepserve._current_client import current_client

deepserve.init(state=sys.argv[1])
startup = current_client().query("model", {"name": "seldom"})["startup"]
assert startup["seconds"] > float(sys.argv[2]), startup
ends_s = time.monotonic() + 60
while True:
    ready = [each for each in current_client().query("status")["templates"] if each["state"] == "ready"]
    if found := [each for each in ready if each["label"] == "models/seldom"]:
        break
    assert time.monotonic() < ends_s, current_client().query("status")
    time.sleep(0.02)
print(found[0]["reason"])
deepserve.Model.from_name("seldom").generate("The quick", max_tokens=2)
"""


def run(text: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [sys.executable, "-c", text, *arguments], capture_output=True, text=True, timeout=100, check=False
    )
    assert done.returncode == 0, done.stderr
    return done


def test_the_next_controller_loads_a_model_that_is_likely_to_be_asked(folder: Path, tmp_path: Path) -> None:
    state = tmp_path / "state"
    run(FIRST, str(state), str(folder), str(LEAST_GAP_S + 0.1))
    kept = json.loads((state / "demand.json").read_text())
    [model] = kept["models"]
    first, second = model["gaps_s"]
    assert LEAST_GAP_S < first < 30 and LEAST_GAP_S < second < 30 and model["load_ms"] > 0 and model["uses"] > 0
    model["gaps_s"] = [first + 100, second + 100]  # as if it had been asked every 100 s, and not since 75 s
    kept["written_at"] -= 75
    (state / "demand.json").write_text(json.dumps(kept))
    learned = json.loads((state / "startups.json").read_text())
    [size] = learned["known"]["sizes"]
    assert size["source"] == str(folder) and size["size_bytes"] > 0
    assert 0.0 < learned["known"]["engine_s"]["models/seldom "] < 100
    learned["known"]["engine_s"] = dict.fromkeys(learned["known"]["engine_s"], 77.0)  # as if it had taken so long
    (state / "startups.json").write_text(json.dumps(learned))
    assert run(SECOND, str(state), "77").stdout == "likely (67%) to be asked within 30 s\n"
    [model] = json.loads((state / "demand.json").read_text())["models"]
    assert model["gaps_s"][:2] == [first + 100, second + 100] and model["gaps_s"][2] > 75
    assert 0.0 < json.loads((state / "startups.json").read_text())["known"]["engine_s"]["models/seldom "] < 77.0
    for name in ("demand.json", "startups.json"):
        (state / name).write_text('{"version": 99}')
    said = run("import deepserve, sys; deepserve.init(state=sys.argv[1]); deepserve.put(1)", str(state)).stderr
    assert "demand.json has format 99" in said and "startups.json has format 99" in said and "Traceback" not in said
