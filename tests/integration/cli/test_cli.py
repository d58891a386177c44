"""The command line with real controllers and pods: what it prints, and what its exit codes say."""

from __future__ import annotations

import json
import os
import socket
import stat
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from tests.integration.cli.conftest import APP, Shell
from tests.waiting import TIMEOUT_S, wait_for


def test_run_calls_the_entry_point_with_its_options(shell: Shell) -> None:
    assert "total 6" in shell.out("run", "app.py")
    assert "total 15" in shell.out("run", "app.py", "--n", "5")


def test_run_calls_a_function_in_a_pod(shell: Shell) -> None:
    assert "'total': 12" in shell.out("run", "app.py::price", "pear", "--count", "4")
    assert shell.out("run", "app.py::lines", "3").splitlines() == ["line 0", "line 1", "line 2"]


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        (["run", "missing.py"], 2, "no such file"),
        (["run", "app.py::nothing"], 2, "price"),
        (["run", "app.py", "--wrong", "1"], 2, "no parameter 'wrong'"),
        (["run", "app.py::fails"], 1, "no such price"),
        (["run", "app.py::slow"], 4, "FunctionTimeout"),
        (["run"], 2, "target"),
        (["call", "shop/price"], 5, "deepserve up"),
        (["status"], 5, "deepserve up"),
    ],
)
def test_exit_codes_without_a_controller(shell: Shell, words: list[str], code: int, says: str) -> None:
    done = shell.run(*words)
    assert (done.returncode, says in done.stderr) == (code, True), done


def test_a_file_without_an_entry_point_runs_as_a_script(shell: Shell) -> None:
    (shell.folder / "script.py").write_text(
        "import sys\nimport deepserve\n\n@deepserve.function\ndef twice(x):\n    return 2 * x\n\n"
        "@deepserve.function\ndef thrice(x):\n    return 3 * x\n\n"
        'if __name__ == "__main__":\n    print(twice.remote(int(sys.argv[1])), __name__)\n'
    )
    assert shell.out("run", "script.py", "21") == "42 __main__\n"
    assert shell.out("run", "script.py::thrice", "--x", "7") == "777\n"  # x has no hint: text


def test_a_file_in_a_package_is_imported_as_its_module(shell: Shell) -> None:
    inner = shell.folder / "outer" / "inner"
    inner.mkdir(parents=True)
    for folder in (inner, inner.parent):
        (folder / "__init__.py").write_text("")
    (inner / "near.py").write_text("def h(x):\n    return x + 1\n")
    (inner / "main.py").write_text(
        "import deepserve\nfrom .near import h\nfrom outer.inner.near import h as same\n\n"
        "@deepserve.function\ndef f(x: int) -> int:\n    assert h is same\n    return h(x)\n\n"
        "@deepserve.function\ndef name() -> str:\n    return __name__\n"
    )
    assert shell.out("run", "outer/inner/main.py::f", "1") == "2\n"
    assert shell.out("run", "outer/inner/main.py::name") == "outer.inner.main\n"
    (inner / "script.py").write_text(
        "import deepserve\nfrom .near import h\n\n@deepserve.function\ndef f(x):\n    return h(x)\n\n"
        'if __name__ == "__main__":\n    print(f.remote(6))\n'
    )
    assert shell.out("run", "outer/inner/script.py") == "7\n"


def test_help_and_version(shell: Shell) -> None:
    assert "Usage: deepserve run" in shell.out("run", "--help")
    assert "--item ITEM [--count 1]" in shell.out("run", "app.py::price", "--help")
    assert shell.out("--version").startswith("deepserve 0.")


def test_errors_are_json_where_json_is_asked_for(shell: Shell) -> None:
    done = shell.run("status", "--json")
    assert done.returncode == 5
    assert json.loads(done.stdout)["error"] == "ControllerUnreachable"


def test_a_file_that_raises_is_the_users_failure(shell: Shell) -> None:
    (shell.folder / "broken.py").write_text("import deepserve\nraise RuntimeError('at import')\n")
    done = shell.run("run", "broken.py")
    assert done.returncode == 1
    assert "at import" in done.stderr


def test_deploy_starts_a_controller_and_other_processes_find_the_functions(shell: Shell) -> None:
    done = shell.run("deploy", "app.py")
    assert done.returncode == 0, done.stderr
    assert "started this user's controller" in done.stderr
    assert "Deployed shop" in done.stdout and "Deployed stock" in done.stdout
    assert "started" not in shell.run("deploy", "app.py").stderr

    assert json.loads(shell.out("call", "shop/price", '{"item": "fig", "count": 2}')) == {"item": "fig", "total": 6}
    assert json.loads(shell.out("call", "shop/price", '["fig", 3]')) == {"item": "fig", "total": 9}
    assert shell.out("call", "shop/lines", '{"n": 2}', "--stream") == "line 0\nline 1\n"
    assert shell.out("call", "stock/left") == "7\n"
    script = shell.folder / "client.py"
    script.write_text(
        "import deepserve\n"
        "f = deepserve.Function.from_name('shop', 'price')\n"
        "print(f.remote('kiwi')['total'], sum(a['total'] for a in f.map(['x', 'y'])))\n"
    )
    output = subprocess.run(
        [sys.executable, str(script)], env=shell.environment, capture_output=True, text=True, timeout=60
    )
    assert output.stdout.split()[-2:] == ["3", "6"], output.stderr


def in_another_process(shell: Shell, script: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", script], env=shell.environment, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


CLASS_CLIENT = """
import deepserve, pickle
Shelf = deepserve.Cls.from_name("stock", "Shelf")
shelf = Shelf(size=5)
print(Shelf().room.remote(1), shelf.room.remote(1), list(shelf.places.remote()), list(shelf.room.map([1, 2])))
print(pickle.loads(pickle.dumps(shelf)).room.remote(2))
for wrong in (lambda: shelf.colour, lambda: deepserve.Cls.from_name("stock", "left"),
              lambda: deepserve.Function.from_name("stock", "Shelf"), lambda: Shelf(colour=1).room.remote(1)):
    try:
        wrong()
    except Exception as error:
        print(type(error).__name__)
"""


def test_classes_are_deployed_and_found(deployed: Shell) -> None:
    assert deployed.out("call", "stock/Shelf.room", '{"taken": 2}') == "0\n"
    assert deployed.out("call", "stock/Shelf.places", "--stream") == "0\n1\n"
    lines = in_another_process(deployed, CLASS_CLIENT).splitlines()
    assert lines[:2] == ["1 4 [0, 1, 2, 3, 4] [4, 3]", "3"]
    assert lines[2:] == ["AttributeError", "NotFound", "NotFound", "StartupFailed"]


def test_the_autoscaler_of_a_deployed_function(deployed: Shell) -> None:
    in_another_process(
        deployed,
        "import deepserve\nf = deepserve.Function.from_name('shop', 'pid')\nf.autoscaler.update(min_pods=2)\n",
    )
    ends_at_s = time.monotonic() + 60
    while sum(pod["label"] == "shop/pid" for pod in json.loads(deployed.out("status", "--json"))["pods"]) < 2:
        assert time.monotonic() < ends_at_s
    in_another_process(
        deployed, "import deepserve\ndeepserve.Function.from_name('shop', 'pid').autoscaler.update(min_pods=0)\n"
    )


def test_a_failing_call_shows_the_users_frames_only(deployed: Shell) -> None:
    said = deployed.run("call", "shop/fails").stderr
    assert 'raise ValueError("no such price")' in said and "typer" not in said and "deepserve/cli" not in said


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        (["call", "shop/price", "{"], 2, "no JSON"),
        (["call", "shop/lines", '{"n": 2}'], 2, "call it with --stream"),
        (["call", "shop/price", '["fig"]', "--stream"], 2, "call it without --stream"),
        (["call", "stock/Shelf"], 2, "stock/Shelf.room"),
        (["call", "stock/Shelf.none"], 3, "stock/Shelf.room"),
        (["call", "shop/price", "3"], 2, "object or list"),
        (["call", "price"], 2, "APP/FUNCTION"),
        (["call", "shop/none"], 3, "none"),
        (["call", "none/price"], 3, "none"),
        (["call", "shop/price", "{}"], 2, "missing a required argument: 'item'"),
        (["call", "shop/price", '{"thing": "fig"}'], 2, "no parameter thing; it takes: item, count"),
        (["call", "shop/price", '{"item": "fig", "count": "x"}'], 2, "'count'"),
        (["call", "shop/fails"], 1, "no such price"),
        (["call", "shop/slow"], 4, "FunctionTimeout"),
        (["call", "shop/wait", '{"seconds": 30}', "--timeout", "0.2"], 4, "in time"),
        (["app", "stop", "none"], 3, "none"),
        (["logs", "none"], 3, "none"),
        (["deploy", "app.py", "--name", "x"], 2, "one app"),
    ],
)
def test_exit_codes_with_a_controller(deployed: Shell, words: list[str], code: int, says: str) -> None:
    done = deployed.run(*words)
    assert (done.returncode, says in done.stderr) == (code, True), done


@pytest.fixture(scope="module")
def deployed() -> Iterator[Shell]:
    with TemporaryDirectory(prefix="ds-") as folder:
        shell = Shell(Path(folder))
        try:
            shell.out("deploy", "app.py")
            yield shell
        finally:
            shell.run("down")


def test_async_call_prints_an_id_that_another_process_can_ask_for(deployed: Shell) -> None:
    call_id = deployed.out("call", "shop/wait", '{"seconds": 0.2}', "--async").strip()
    script = f"import deepserve; print(deepserve.Call.from_id({call_id!r}).get(timeout=60))"
    output = subprocess.run(
        [sys.executable, "-c", script], env=deployed.environment, capture_output=True, text=True, timeout=60
    )
    assert output.stdout.strip() == "waited", output.stderr


REFS = """
import os, sys, time
import deepserve

@deepserve.function
def size(data, gate=""):
    while gate and not os.path.exists(gate):
        time.sleep(0.01)
    return len(data)

if __name__ == "__main__":
    ref = deepserve.put(b"x" * 1_000_000)
    print(size.remote(ref), size.spawn(ref, sys.argv[1]).id)
"""


def test_what_a_script_stored_goes_with_its_last_call(deployed: Shell) -> None:
    def refs() -> list[Path]:
        return list(Path(f"/dev/shm/deepserve-{os.getuid()}-{controller}").parent.glob(f"*-{controller}-*/r-*"))

    controller = json.loads(deployed.out("status", "--json"))["pid"]
    (deployed.folder / "refs.py").write_text(REFS)
    gate = deployed.folder / "gate"
    size, call_id = deployed.out("run", "refs.py", str(gate)).split()
    assert size == "1000000" and len(refs()) == 1, "the spawned call still reads it"
    gate.touch()
    script = f"import deepserve; print(deepserve.Call.from_id({call_id!r}).get(timeout=60))"
    output = subprocess.run(
        [sys.executable, "-c", script], env=deployed.environment, capture_output=True, text=True, timeout=60
    )
    assert output.stdout.strip() == "1000000", output.stderr
    assert refs() == []


def test_status_logs_and_lists_as_text_and_json(deployed: Shell) -> None:
    deployed.out("call", "shop/price", '{"item": "plum"}')
    status = json.loads(deployed.out("status", "--json"))
    assert status["mode"] == "up"
    assert {"shop", "stock"} <= {app["app"] for app in status["apps"]}
    assert any(record["label"] == "shop/price" for record in status["requests"])
    assert "shop/price" in deployed.out("status")
    assert "pricing plum" in deployed.out("logs", "shop/price")
    assert "pricing plum" in deployed.out("logs", "shop")
    assert "price" in deployed.out("app", "list")
    assert {app["app"] for app in json.loads(deployed.out("app", "list", "--json"))} >= {"shop", "stock"}


def test_deployed_apps_outlive_the_controller(shell: Shell) -> None:
    shell.out("deploy", "app.py")
    first = json.loads(shell.out("status", "--json"))["pid"]
    assert "stopped" in shell.out("down")
    assert shell.run("call", "stock/left").returncode == 5
    assert "started" in shell.out("up")
    assert json.loads(shell.out("status", "--json"))["pid"] != first
    assert shell.out("call", "stock/left") == "7\n"
    shell.out("app", "stop", "stock")
    assert shell.run("call", "stock/left").returncode == 3
    assert json.loads(shell.out("call", "shop/price", '{"item": "fig"}'))["total"] == 3


def test_a_name_defined_again_replaces_the_old_one(shell: Shell) -> None:
    shell.out("deploy", "app.py")
    assert shell.out("call", "stock/left") == "7\n"
    shell.app.write_text(APP.replace("return 7", "return 8").replace("def fails", "def still_fails"))
    shell.out("deploy", "app.py")
    assert shell.out("call", "stock/left") == "8\n"
    assert shell.run("call", "shop/fails").returncode == 3
    assert shell.run("call", "shop/still_fails").returncode == 1


def test_down_leaves_nothing(shell: Shell) -> None:
    shell.out("deploy", "app.py")
    pod = int(shell.out("call", "shop/pid"))
    controller = json.loads(shell.out("status", "--json"))["pid"]
    shell.out("down")
    assert not os.path.exists(f"/proc/{pod}")
    assert not os.path.exists(f"/proc/{controller}") or "Z" in Path(f"/proc/{controller}/stat").read_text()
    assert [path.name for path in (shell.runtime / "deepserve").iterdir() if path.name != "lock"] == []
    assert shell.out("down") == "No controller runs.\n"


def test_up_says_which_of_its_options_cannot_be_or_were_not_followed(shell: Shell) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        done = shell.run("up", "--http-port", port)
        said = f"deepserve: UsageError: HTTP port 127.0.0.1:{port} is in use by another program"
        assert (done.returncode, done.stderr.startswith(said)) == (2, True), done
        done = shell.run("up", "--host", "nosuch.invalid")
        assert (done.returncode, "--host nosuch.invalid: no address of this name" in done.stderr) == (2, True), done
        url = json.loads(shell.out("up", "--state", "here", "--json"))["url"]
        assert "runs already" in shell.out("up", "--state", "here", "--http-port", url.rpartition(":")[2])
        done = shell.run("up", "--http-port", port, "--state", "there", "--json")
    assert (done.returncode, json.loads(done.stdout)["url"]) == (2, url)
    assert json.loads(done.stdout)["not_applied"] == [f"--http-port {port}", "--state there"]
    assert f"not applied, since it was started without: --http-port {port}, --state there" in done.stderr


READS_ON = """
import deepserve

lines = iter(deepserve.Function.from_name("shop", "lines_for_ever").remote())
print(next(lines), flush=True)
try:
    for _ in lines:
        pass
except deepserve.CallCancelled as error:
    print(error)
"""


def test_who_reads_a_stream_while_the_controller_is_stopped_is_told_so(shell: Shell) -> None:
    endless = "@app.function\ndef lines_for_ever():\n    while True:\n        yield 'line'\n        time.sleep(0.01)\n"
    shell.app.write_text(f"{shell.app.read_text()}\n{endless}")
    shell.out("deploy", "app.py")
    words, pipe = [sys.executable, "-c", READS_ON], subprocess.PIPE
    with subprocess.Popen(words, env=shell.environment, stdout=pipe, text=True) as reader:
        assert reader.stdout is not None and reader.stdout.readline() == "line\n"
        shell.out("down")
        assert (
            "shop/lines_for_ever: the controller was stopped, and the code was interrupted" in reader.communicate()[0]
        )


def test_http_needs_the_key(shell: Shell) -> None:
    shell.out("deploy", "app.py")
    url = json.loads(shell.out("status", "--json"))["url"]
    assert url.startswith("http://127.0.0.1:")
    [key_file] = shell.state.rglob("key")
    assert stat.S_IMODE(key_file.stat().st_mode) == 0o600
    with urllib.request.urlopen(f"{url}/health", timeout=60) as answer:
        assert answer.status == 200
    with pytest.raises(urllib.error.HTTPError, match="401"):
        urllib.request.urlopen(f"{url}/api/status", timeout=60)
    request = urllib.request.Request(
        f"{url}/api/call/shop/price",
        data=json.dumps({"item": "fig", "count": 5}).encode(),
        headers={"Authorization": f"Bearer {key_file.read_text().strip()}", "Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=60) as answer:
        assert json.load(answer)["result"] == {"item": "fig", "total": 15}


def test_folders_are_private(deployed: Shell) -> None:
    folder = deployed.runtime / "deepserve"
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    for path in folder.rglob("*"):
        assert not stat.S_IMODE(path.stat().st_mode) & 0o077 or path.parent != folder, path


def test_in_the_foreground_it_is_the_controller_itself(shell: Shell) -> None:
    """So a supervisor's signal ends it in order, and what it ends with is told."""
    with subprocess.Popen(shell.command("up", "--foreground"), cwd=shell.folder, env=shell.environment) as running:
        try:
            wait_for(lambda: shell.run("status").returncode == 0)
            assert json.loads(shell.out("status", "--json"))["pid"] == running.pid
            running.terminate()
            assert running.wait(TIMEOUT_S) == 0
        finally:
            running.kill()
    assert shell.run("status").returncode == 5
