"""`flowserve bench`: what it makes of samples, when it asks whom, and what its models look like."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from flowserve.bench import measure as measuring_all
from flowserve.bench import turn as turns
from flowserve.bench.bounds import Limits, bound
from flowserve.bench.command import run
from flowserve.bench.markdown import COLUMNS, markdown
from flowserve.bench.measure import measure, prepare
from flowserve.bench.options import Options
from flowserve.bench.processes import SubjectFailedError, run_alone
from flowserve.bench.report import limits_of, rows
from flowserve.bench.rounds import Job, run_rounds
from flowserve.bench.scripts import measuring
from flowserve.bench.scripts.measuring import WORKS, Prompts, common_prefix
from flowserve.bench.shapes import SHAPES, Shape, _config, model_folder
from flowserve.bench.subjects import SCRIPTS, SUBJECTS, Conversion, Subject, chosen, missing
from flowserve.errors import InvalidConfigError
from flowserve.models.checkpoint import Checkpoint
from flowserve.models.config import read_model_config
from flowserve.models.registry import plan_builder
from flowserve.tokenizer import Tokenizer

LIMITS = Limits(read_gbs={16: 80.0, 64: 40.0, 256: 20.0}, fp32_gflops=100.0, int8_gflops=400.0)


def sample(who: str, value: float, work: str = "one", precision: str = "int8", **more: Any) -> dict[str, Any]:
    common = {"model": "small", "unit": "tokens/s", "foreign": 0.0}
    return {**common, "who": who, "work": work, "precision": precision, "value": value, **more}


def limit(work: str, value: float) -> dict[str, Any]:
    return sample("limits", value, work, "", model="")


# --- who, and when -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"models": ("small", "huge")}, "no model 'huge'; there are: small, tiny, toy"),
        ({"works": ("two",)}, "no work 'two'"),
        ({"who": ("nobody",)}, "nobody is called 'nobody'"),
        ({"rounds": 0}, "rounds 0"),
        ({"minutes": 0.0}, "minutes 0"),
        ({"minutes": float("nan")}, "minutes nan"),
        ({"subject_minutes": -1.0}, "subject_minutes -1"),
    ],
)
def test_wrong_options_are_named(wrong: dict[str, Any], says: str) -> None:
    with pytest.raises(InvalidConfigError, match=says):
        Options(**wrong)


def test_wrong_words_on_the_command_line_end_with_2() -> None:
    for words in (["--only", "what"], ["--output", "report.txt"]):
        done = subprocess.run(
            [sys.executable, "-m", "flowserve", "bench", *words], capture_output=True, text=True, timeout=60
        )
        assert done.returncode == 2 and words[1] in done.stderr


def test_peers_are_those_whose_environment_was_made(tmp_path: Path) -> None:
    assert all(subject.is_ours for subject in chosen((), None))
    (tmp_path / "engine-openvino").mkdir()
    (tmp_path / "engine-openvino" / ".installed").touch()
    found = {subject.who for subject in chosen((), tmp_path) if not subject.is_ours}
    assert found == {"OpenVINO GenAI int8", "OpenVINO GenAI fp32"}
    assert [subject.who for subject in chosen(("openvino genai int8",), tmp_path)] == ["OpenVINO GenAI int8"]
    assert "engine-openvino" not in missing(tmp_path) and "engine-openvino-convert" in missing(tmp_path)
    requirements = Path(__file__).parents[3] / "benchmarks" / "peers"
    for environment in missing(tmp_path / "nowhere"):
        assert (requirements / f"{environment}.txt").exists(), "make bench-engine-peers cannot make it"


@pytest.mark.parametrize("name", ["small", "tiny"])
def test_a_fresh_vllm_has_room_for_one_context(tmp_path: Path, name: str) -> None:
    """In whole blocks of 128 tokens, of which vLLM keeps one for itself; not so much that it weighs in its memory."""
    shape = SHAPES[name]
    (tmp_path / "config.json").write_text(json.dumps(_config(shape, shape.dtype)))
    code = "import sys, on_vllm; print(on_vllm.fresh_cache_bytes(sys.argv[1]))"
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], cwd=SCRIPTS, capture_output=True, text=True)
    block_bytes = 128 * shape.num_layers * 2 * shape.kv_heads * shape.head_dim * 4
    assert 3 <= int(done.stdout) // block_bytes <= 5, done.stderr


def test_every_script_that_a_subject_names_is_there() -> None:
    for subject in SUBJECTS:
        assert (SCRIPTS / subject.script).exists()
        assert subject.conversion is None or (SCRIPTS / subject.conversion.script).exists()


class FakeTime:
    """A clock that moves while jobs are measured."""

    def __init__(self) -> None:
        self.now_s = 0.0
        self.asked: list[str] = []

    def job(self, label: str, takes_s: float, fails: bool = False) -> Job:
        def work(number: int) -> Iterator[dict[str, Any]]:
            self.now_s += takes_s
            self.asked.append(f"{label}{number}")
            yield {"work": label}
            if fails:
                raise SubjectFailedError("it broke")

        return Job(label, work)


def test_rounds_alternate_and_who_fails_is_not_asked_again() -> None:
    time = FakeTime()
    jobs = [time.job("a", 1.0), time.job("bad", 1.0, fails=True), time.job("b", 1.0)]
    kept: list[int] = []
    found = run_rounds(
        jobs, 3, 1000.0, lambda text: None, lambda found: kept.append(len(found.samples)), clock=lambda: time.now_s
    )
    assert time.asked == ["a0", "bad0", "b0", "b1", "a1", "a2", "b2"]
    assert found.failed == {"bad": "it broke"} and found.num_rounds == {"a": 3, "b": 3}
    assert kept == [1, 2, 3, 4, 5, 6, 7], "also what it had measured before it broke, each as soon as it is there"
    assert found.turns_s == {"a": [1.0] * 3, "bad": [1.0], "b": [1.0] * 3}


def test_further_rounds_leave_out_the_slowest() -> None:
    time = FakeTime()
    jobs = [time.job("slow", 60.0), time.job("a", 5.0), time.job("b", 5.0)]
    found = run_rounds(jobs, 3, 100.0, lambda text: None, clock=lambda: time.now_s)
    assert found.num_rounds == {"slow": 1, "a": 3, "b": 3}
    assert time.now_s <= 100.0
    late = run_rounds([time.job("slow", 60.0)], 3, 1.0, lambda text: None, clock=lambda: time.now_s)
    assert late.num_rounds == {"slow": 1}, "everybody is measured once"


# --- processes ------------------------------------------------------------------------------------------------


def test_a_process_that_fails_says_why_and_what_it_had(tmp_path: Path) -> None:
    script = tmp_path / "subject.py"
    said = "print('not for us')\nprint('{\"work\": 1}', flush=True)\nprint('{\"wo', end='', flush=True)\n"

    def failure(ending: str, timeout_s: float = 60.0) -> SubjectFailedError:
        script.write_text(said + ending)
        with pytest.raises(SubjectFailedError) as raised:
            run_alone([sys.executable, str(script)], timeout_s)
        assert raised.value.lines == [{"work": 1}], "not the half of a line"
        return raised.value

    script.write_text(said)
    assert run_alone([sys.executable, str(script)], 60.0).lines == [{"work": 1}]
    assert str(failure("raise SystemExit('no result today')")) == "subject.py: no result today"
    assert str(failure("import os; os.kill(os.getpid(), 9)")) == "subject.py: killed by SIGKILL"
    assert str(failure("import os; os._exit(3)")) == "subject.py: exit code 3"
    child = "import subprocess, sys; subprocess.run([sys.executable, '-c', 'import time; time.sleep(600)'])"
    assert str(failure(child, timeout_s=2.0)) == "subject.py: not done after 2 s", "its child would keep the pipes open"


class Here(Subject):
    """A subject of this Python that counts as a peer."""

    def python(self, environments: Path) -> str:
        return sys.executable

    @property
    def library(self) -> str:
        return "json"


SPEAKS = """
import os, pathlib, time
os.chdir(pathlib.Path(__file__).parent)
from measuring import arguments, run
given = arguments()
def generate(prompts, num_out):
    if given.works and len(prompts) > 1:
        {ending}
    return [[time.perf_counter() + i * 1e-3 for i in range(num_out)] for _ in prompts]
run(given, lambda: (generate, None))
"""


@pytest.fixture
def subjects(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Makes scripts the only subjects: {name: what it does at its second work}."""
    monkeypatch.setenv("FLOWSERVE_CACHE", str(tmp_path / "cache"))
    scripts = tmp_path / "scripts"
    shutil.copytree(SCRIPTS, scripts)
    for module in (measuring_all, turns):
        monkeypatch.setattr(module, "SCRIPTS", scripts)

    def make(**endings: str) -> None:
        for name, ending in endings.items():
            (scripts / f"{name}.py").write_text(SPEAKS.format(ending=ending))
        found = [Here(name, f"{name}.py", "fp32", "engine-x", works=("one", "sixteen", "fresh")) for name in endings]
        monkeypatch.setattr(measuring_all, "chosen", lambda who, peers: found)

    return make


def test_who_is_killed_or_takes_too_long_loses_only_what_was_to_come(subjects: Callable[..., None]) -> None:
    subjects(killed="os.kill(os.getpid(), 9)", slow="time.sleep(600)", good="pass")
    reports: list[dict[str, Any]] = []
    options = Options(models=("toy",), rounds=1, is_quick=True, subject_minutes=0.15)
    report = measure(options, keep=reports.append)
    assert report["failed"] == {
        "killed, toy": "killed.py: killed by SIGKILL",
        "slow, toy": "slow.py: stopped after 0.15 minutes for all works (--subject-minutes)",
    }
    measured = {(row["who"], row["work"]) for row in report["rows"] if row["who"] != "bound"}
    assert {work for who, work in measured if who == "slow"} == {"one", "first"}
    assert {work for who, work in measured if who == "killed"} == {"one", "first"}
    whole = {"one", "first", "sixteen", "memory", "fresh", "base", "loading", "loaded"}
    assert {work for who, work in measured if who == "good"} == whole
    assert [len(each["turns_s"]) for each in reports] == [1, 2, 3, 4]
    assert not reports[-1]["finished"] and report["finished"]
    assert "- slow, toy failed: slow.py: stopped after" in markdown(report)


def test_an_interrupted_run_leaves_what_it_has(tmp_path: Path, subjects: Callable[..., None]) -> None:
    subjects(good="pass", interrupted="import signal; os.kill(os.getppid(), signal.SIGTERM); time.sleep(600)")
    out, page = tmp_path / "report.json", tmp_path / "report.md"
    before = signal.getsignal(signal.SIGTERM)
    try:
        with pytest.raises(KeyboardInterrupt):
            options = Options(models=("toy",), rounds=1, is_quick=True)
            run(options, only_prepare=False, output=[out, page], as_json=False)
    finally:
        signal.signal(signal.SIGTERM, before)
    report = json.loads(out.read_text())
    assert not report["finished"] and {row["who"] for row in report["rows"]} == {"bound", "good"}
    assert page.read_text() == markdown(report) and "not at its end" in page.read_text()
    assert {path.name for path in tmp_path.iterdir()} == {"report.json", "report.md", "scripts", "cache"}


def test_prompts_are_new_each_time_and_alike_for_all() -> None:
    work = WORKS["shared"]
    first, second = Prompts(1024, 7), Prompts(1024, 7)
    prompts = first.of(work)
    assert prompts == second.of(work) and prompts != first.of(work)
    assert [len(prompt) for prompt in prompts] == [544] * 16 and common_prefix(prompts) >= 512
    assert common_prefix([[1, 2, 3]]) == 0 and common_prefix([[1, 2], [1, 2]]) == 1


def test_too_few_tokens_are_no_figure() -> None:
    with pytest.raises(SystemExit, match="2 x 3 tokens"):
        measuring.timed(lambda prompts, num_out: [[1.0] * 3, [1.0] * 2], [[1], [2]], 3)


def test_a_noisy_figure_is_taken_again_and_the_quietest_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    busy = iter([0.0, 2.0, 2.0, 2.1, 9.0])  # seconds of all cores before and after each try
    now = iter([0.0, 1.0, 1.0, 2.0])
    monkeypatch.setattr(measuring, "_wait_for_quiet", lambda: None)
    monkeypatch.setattr(measuring, "busy_s", lambda: next(busy))
    monkeypatch.setattr(measuring.time, "monotonic", lambda: next(now))
    monkeypatch.setattr(measuring.time, "process_time", lambda: 0.0)
    tries = iter(["noisy", "quiet"])
    found, foreign = measuring.quietly(lambda: next(tries))
    assert found == "quiet" and foreign == pytest.approx(0.1)


def test_a_long_noisy_figure_is_not_taken_again(monkeypatch: pytest.MonkeyPatch) -> None:
    busy, now = iter([0.0, 40.0]), iter([0.0, 20.0])
    monkeypatch.setattr(measuring, "_wait_for_quiet", lambda: None)
    monkeypatch.setattr(measuring, "busy_s", lambda: next(busy))
    monkeypatch.setattr(measuring.time, "monotonic", lambda: next(now))
    monkeypatch.setattr(measuring.time, "process_time", lambda: 0.0)
    assert measuring.quietly(lambda: "noisy") == ("noisy", 2.0)


# --- models ---------------------------------------------------------------------------------------------------


def test_models_have_the_sizes_of_their_shapes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLOWSERVE_CACHE", str(tmp_path))
    assert SHAPES["small"].parameters == pytest.approx(596e6, rel=0.01)
    assert SHAPES["tiny"].parameters == pytest.approx(14.2e6, rel=0.01)
    for shape in (SHAPES["toy"], replace(SHAPES["toy"], name="normed", kind="qwen3", dtype="bfloat16")):
        folder = model_folder(shape)
        config = read_model_config(folder)
        plan_builder(config.architecture)(Checkpoint(folder), config)  # every tensor is there, in its shape
        norms = shape.hidden * (2 * shape.num_layers + 1)
        norms += 2 * shape.head_dim * shape.num_layers * (shape.kind == "qwen3")
        assert config.num_parameters in (shape.parameters, shape.parameters + norms)
    written = (folder / "model.safetensors").stat().st_mtime_ns
    assert model_folder(shape) == folder and (folder / "model.safetensors").stat().st_mtime_ns == written


def test_a_conversion_that_fails_is_told_and_the_others_go_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLOWSERVE_CACHE", str(tmp_path))
    monkeypatch.setattr(measuring_all, "SCRIPTS", tmp_path)
    (tmp_path / "good.py").write_text("import sys, pathlib; pathlib.Path(sys.argv[2]).write_text(sys.argv[3])")
    (tmp_path / "bad.py").write_text("raise SystemExit('it broke')")
    converted = [Subject(n, "", "int8", conversion=Conversion(f"{n}.py", "", n, ("x",))) for n in ("bad", "good")]
    monkeypatch.setattr(measuring_all, "chosen", lambda who, peers: converted)
    assert prepare(Options(models=("toy",))) == {"bad, toy": "bad.py: it broke"}
    assert (tmp_path / "bench-models" / "toy-good").read_text() == "x"
    assert not (tmp_path / "bench" / "toy-bad").exists()


# --- bounds and rows --------------------------------------------------------------------------------------------


def test_bounds_of_a_large_and_of_a_cached_model() -> None:
    small, tiny = SHAPES["small"], SHAPES["tiny"]

    def of(shape: Shape, figure: str, work: str, precision: str) -> float:
        value = bound(shape, figure, WORKS[work], precision, LIMITS)
        assert value is not None
        return value

    assert of(small, "one", "one", "fp32") == pytest.approx(20e9 / (4 * small.parameters))
    assert of(small, "one", "one", "int8") == pytest.approx(20e9 / small.parameters)
    assert of(small, "one", "one", "int4") > of(small, "one", "one", "int8")
    linear_s = 2 * small.layer_parameters * 2048 / 400e9
    assert of(small, "prompt", "prompt", "int8") < 2048 / linear_s
    assert of(small, "first", "one", "int8") == pytest.approx(1e3 * (2 * small.layer_parameters * 128 / 400e9), rel=0.1)
    assert of(small, "shared warm", "shared", "int8") < of(small, "shared cold", "shared", "int8")
    assert of(small, "sixteen", "sixteen", "fp32") < 16 * of(small, "one", "one", "fp32")
    assert of(tiny, "one", "one", "int8") == pytest.approx(80e9 / tiny.parameters), "14 MB come out of a cache"
    assert of(tiny, "one", "one", "fp32") == pytest.approx(80e9 / (4 * tiny.parameters)), "57 MB are not 64"
    interrupted = replace(LIMITS, read_gbs=LIMITS.read_gbs | {4: 1.0, 16: 5.0})
    assert interrupted.reading_s(14.0) == pytest.approx(14e-3 / 40.0), "less is not read more slowly"
    assert bound(small, "fresh", WORKS["one"], "int8", LIMITS) is None


def test_rows_are_compared_within_one_precision() -> None:
    samples = [
        limit("read 16", 80.0),
        limit("read 64", 40.0),
        limit("read 256", 19.0),
        limit("read 256", 20.0),
        limit("fp32", 100.0),
        limit("int8", 400.0),
    ]
    assert limits_of(samples) == LIMITS and limits_of(samples[:5]) is None and limits_of(samples[4:]) is None
    samples += [
        sample("Peer", 10.0),
        sample("FlowServe int8", 20.0),
        sample("FlowServe int8", 30.0, foreign=1.0),
        sample("Better peer", 50.0),
        sample("FlowServe torch int8", 5.0),
        sample("Peer", 7.0, precision="fp32"),
        sample("Peer", 1192.0, work="loading", unit="MB"),
        sample("Peer", 298.0, work="base", unit="MB"),
        sample("Better peer", 1192.0, work="memory", unit="MB"),
    ]
    found = rows(samples)
    assert [(row["work"], row["precision"], row["who"]) for row in found] == [
        ("one", "fp32", "bound"),
        ("one", "fp32", "Peer"),
        ("one", "int8", "bound"),
        ("one", "int8", "FlowServe int8"),
        ("one", "int8", "FlowServe torch int8"),
        ("one", "int8", "Better peer"),
        ("one", "int8", "Peer"),
        ("base", "int8", "Peer"),
        ("loading", "int8", "Peer"),
        ("memory", "int8", "Better peer"),
    ]
    ours = found[3]
    assert (ours["median"], ours["spread"], ours["num_samples"], ours["foreign"]) == (25.0, [20.0, 30.0], 2, 0.5)
    assert ours["of_ours"] == 1.0 and ours["of_bound"] == pytest.approx(25 / found[2]["median"])
    assert found[5]["of_ours"] == 2.0 and found[1]["of_ours"] is None
    assert "of_weights" not in found[7]
    assert found[8]["of_weights"] == pytest.approx(2.0, rel=0.01)
    assert found[8]["above_base"] == pytest.approx(1.5, rel=0.01)
    assert found[9]["above_base"] is None, "what its libraries take is not known"


def test_markdown_has_a_line_for_each_figure_and_precision(report: Callable[..., dict[str, Any]]) -> None:
    samples = [sample("Peer", 12.34), sample("FlowServe int8", 20.0), sample("FlowServe int8", 31.0, foreign=0.9)]
    samples.append(sample("FlowServe int8, speculating", 60.0))
    memory = [("FlowServe int8", "loading", 1192.0), ("FlowServe int8", "base", 298.0), ("Peer", "loading", 1192.0)]
    samples += [sample(who, value, work, unit="MB") for who, work, value in memory]
    text = markdown(report(rows(samples)))
    [line] = [line for line in text.splitlines() if line.startswith("| one stream")]
    assert line.count("|") == len(COLUMNS) + 1
    assert "**25.5*** (20.0-31.0); int8, speculating: 60.0 | Peer 12.3 |" in line
    assert "| **1,192 (2.00 / 1.50x)** | Peer 1,192 (2.00x) |" in text
    assert "- Slow, small failed: it broke" in text and "not measured: engine-openvino" in text


@pytest.fixture
def report() -> Callable[..., dict[str, Any]]:
    def make(rows: list[dict[str, Any]]) -> dict[str, Any]:
        return {
            "command": "flowserve bench",
            "taken": "2026-01-01",
            "took_s": 60.0,
            "finished": True,
            "python": "3",
            "cores": 2,
            "machine": "a machine",
            "load_before": 0.1,
            "limits": None,
            "rounds": {"FlowServe int8, small": 3},
            "rows": rows,
            "failed": {"Slow, small": "it\nbroke"},
            "not_measured": ["engine-openvino"],
        }

    return make


@pytest.mark.parametrize("name", ["tiny", "toy"])
def test_each_token_of_a_small_vocabulary_has_a_text(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the first events of streams are measured, a token without one would be seen with a later one."""
    monkeypatch.setenv("FLOWSERVE_CACHE", str(tmp_path))
    tokenizer = Tokenizer.from_folder(model_folder(SHAPES[name]))
    assert all(tokenizer.decode([token, 300]) for token in range(1, SHAPES[name].vocab))
    assert tokenizer.encode("Tokens are only") and max(tokenizer.encode("Tokens are only")) < 400
