"""Commands and scripts against a controller behind TLS, as from another machine: an address, a key, a CA."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
import trustme

from tests.integration.cli.conftest import Shell

SCRIPT = """
import sys

import deepserve


@deepserve.function
def double(x):
    print("doubling")
    return 2 * x


if __name__ == "__main__":
    deepserve.init(engine=sys.argv[1], key=sys.argv[2])
    print(double.remote(21), sum(double.map(range(5))), len(double.remote(deepserve.put(bytes(3_000_000)))))
"""


class Distant:
    """box: where the controller runs. here: another user's shell, who has its address only."""

    def __init__(self, box: Shell, here: Shell) -> None:
        self.box, self.here = box, here
        authority = trustme.CA()
        issued = authority.issue_cert("127.0.0.1")
        files = [str(box.folder / name) for name in ("cert.pem", "key.pem", "ca.pem")]
        issued.cert_chain_pems[0].write_to_path(files[0])
        issued.private_key_pem.write_to_path(files[1])
        authority.cert_pem.write_to_path(files[2])
        told = json.loads(box.out("up", "--tls-cert", files[0], "--tls-key", files[1], "--json"))
        self.url: str = told["url"]
        self.key = (box.state / "deepserve" / "key").read_text().strip()
        here.environment |= {"DEEPSERVE_URL": self.url, "DEEPSERVE_KEY": self.key, "DEEPSERVE_CA": files[2]}


@pytest.fixture(scope="module")
def distant() -> Iterator[Distant]:
    with TemporaryDirectory(prefix="ds-") as box, TemporaryDirectory(prefix="ds-") as here:
        found = Distant(Shell(Path(box)), Shell(Path(here)))
        try:
            yield found
        finally:
            found.box.run("down")


def test_commands(distant: Distant) -> None:
    here = distant.here
    assert distant.url.startswith("https://127.0.0.1:")
    assert "Deployed shop" in here.out("deploy", "app.py")
    assert json.loads(here.out("call", "shop/price", '{"item": "pear", "count": 2}', "--json"))
    assert here.out("call", "shop/lines", "[3]", "--stream").split("\n")[:2] == ["line 0", "line 1"]
    assert "shop" in here.out("app", "list") and distant.url in here.out("status")
    assert "pricing pear" in here.out("logs", "shop/price")
    assert "total 6" in here.out("run", "app.py")
    assert here.run("call", "shop/nothing").returncode == 3
    assert here.run("call", "shop/fails").returncode == 1
    here.out("app", "stop", "shop")
    assert here.run("call", "shop/price").returncode == 3
    assert not list(here.runtime.iterdir())


def test_a_script_that_names_the_controller_itself(distant: Distant) -> None:
    (distant.here.folder / "script.py").write_text(SCRIPT)
    command = distant.here.command("run", "script.py", distant.url, distant.key)
    environment = {**distant.here.environment, "DEEPSERVE_URL": "embedded", "DEEPSERVE_KEY": ""}
    done = subprocess.run(command, env=environment, cwd=distant.here.folder, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert "42 20 6000000" in done.stdout and "doubling" in done.stdout
    assert distant.key not in done.stderr and distant.url in done.stderr


@pytest.mark.parametrize(
    ("changes", "code", "says"),
    [
        ({"DEEPSERVE_KEY": "x" * 43}, 5, "does not accept this key"),
        ({"DEEPSERVE_KEY": ""}, 5, "DEEPSERVE_KEY"),
        ({"DEEPSERVE_CA": ""}, 5, "is not trusted"),
        ({"DEEPSERVE_CA": "/missing.pem"}, 2, "DEEPSERVE_CA"),
        ({"DEEPSERVE_URL": "https://127.0.0.1:1"}, 5, "no DeepServe controller answers"),
        ({"DEEPSERVE_URL": "http://box.example:8443"}, 2, "in clear"),
    ],
)
def test_exit_codes(distant: Distant, changes: dict[str, str], code: int, says: str) -> None:
    command = distant.here.command("status")
    environment = {**distant.here.environment, **changes}
    done = subprocess.run(command, env=environment, cwd=distant.here.folder, capture_output=True, text=True, timeout=60)
    assert (done.returncode, says in done.stderr) == (code, True), done.stderr
    assert distant.key not in done.stdout + done.stderr and "Traceback" not in done.stderr


def test_a_port_for_others_without_a_certificate_is_not_opened(shell: Shell) -> None:
    done = shell.run("up", "--host", "0.0.0.0")
    assert done.returncode == 2 and "--tls-cert" in done.stderr, done
