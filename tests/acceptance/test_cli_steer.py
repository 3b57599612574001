"""Commands over a gateway: against that of a `stepwell dev`, one named by its address, and one in a cluster."""

from __future__ import annotations

import contextlib
import json
import os
import re
import stat
import subprocess
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING

import commands
import pytest
from waiting import eventually_sync

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from lending import Databases

FLOWS = """\
apiVersion: stepwell.dev/v1alpha1
kind: Workflow
metadata: {name: sum, namespace: shop}
spec:
  inputSchema: {type: object, required: [a], properties: {a: {type: integer}, b: {type: integer, default: 2}}}
  steps:
    - name: add
      transform: {value: {sum: "{{ a + b }}"}}
    - name: check
      if: sum > 10
      fail: {message: "{{ sum }} is too much"}
    - name: say
      transform: {value: "{{ sum }}"}
---
apiVersion: stepwell.dev/v1alpha1
kind: Workflow
metadata: {name: long, namespace: shop}
spec:
  steps:
    - name: pause
      wait: {duration: 1h}
---
apiVersion: stepwell.dev/v1alpha1
kind: Workflow
metadata: {name: gate, namespace: shop}
spec:
  steps:
    - name: ask
      approval: {message: "go?"}
    - name: say
      transform: {value: "{{ steps.ask.output }}"}
"""


@dataclass
class Running:
    """A `stepwell dev`, and commands in its folder."""

    folder: Path
    address: str
    token: str

    def stepwell(self, *arguments: str, code: int = 0, **env: str) -> str:
        """What the command prints, its stdout, once it has ended with ``code``."""
        done = self.ended(*arguments, **env)
        assert done.returncode == code, done.stderr
        return done.stdout

    def ended(self, *arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
        with contextlib.chdir(self.folder):
            return commands.within(*arguments, env=env)

    def started(self, workflow: str, *arguments: str) -> str:
        """The id of a new run."""
        return self.stepwell("trigger", workflow, "-n", "shop", *arguments).strip()


@pytest.fixture(scope="module")
def dev(tmp_path_factory: pytest.TempPathFactory, databases: Databases, valkey_server: str) -> Iterator[Running]:
    folder = tmp_path_factory.mktemp("dev")
    (folder / "flows.yaml").write_text(FLOWS)
    with databases.lent() as dsn, (folder / "log").open("wb") as log:
        env = commands.environment(DATABASE_URL=dsn, REDIS_URL=valkey_server, PORT="0")
        process = subprocess.Popen([str(commands.STEPWELL), "dev", "."], cwd=folder, env=env, stdout=log, stderr=log)
        with process:
            try:
                about = folder / ".stepwell" / "dev.json"
                eventually_sync(about.exists, 30)
                said = json.loads(about.read_text())
                yield Running(folder, said["url"], said["token"])
            finally:
                process.kill()


def test_a_run_is_started_followed_and_shown(dev: Running) -> None:
    run = dev.started("sum", "-i", '{"a": 3}')
    lines = dev.stepwell("runs", "watch", run, "--follow", "-n", "shop").splitlines()
    assert lines[-1] == f"run {run} succeeded"
    assert [line for line in lines if line.startswith("step")] == [
        "step add succeeded",
        "step check skipped",
        "step say succeeded",
    ]
    there = {"STEPWELL_TOKEN": dev.token}
    over = json.loads(dev.stepwell("runs", "get", run, "-n", "shop", "--json", "--server", dev.address, **there))
    here = json.loads(dev.stepwell("runs", "get", run, "--json"))
    assert over == here
    assert over["output"] == 5
    listed = dev.stepwell("runs", "list", "-n", "shop", "--workflow", "sum", "--server", dev.address, **there)
    assert re.search(rf"{run} +sum +succeeded +api", listed)
    assert "succeeded" in dev.ended("runs", "watch", run, "-n", "shop", "--server", dev.address, **there).stderr


def test_a_key_leads_to_one_run(dev: Running) -> None:
    for key in ("k", "à la carte"):
        first = dev.started("sum", "--key", key, "-i", '{"a": 1}')
        done = dev.ended("trigger", "sum", "-n", "shop", "--key", key, "-i", '{"a": 2}')
        assert done.stdout.strip() == first
        assert "the key was used before, with another request" in done.stderr


def test_a_failed_run_is_retried_and_run_again(dev: Running) -> None:
    run = dev.started("sum", "-i", '{"a": 20}')
    lines = dev.stepwell("runs", "watch", run, "--follow", "-n", "shop", code=1).splitlines()
    assert lines[-2:] == ["step check failed: Failed", f"run {run} failed: Failed"]
    retried = dev.stepwell("runs", "retry", run, "-n", "shop").strip()
    again = dev.stepwell("runs", "rerun", run, "-n", "shop", "-i", '{"a": 1}', "--json")
    assert retried != run
    dev.stepwell("runs", "watch", retried, "--follow", "-n", "shop", code=1)
    dev.stepwell("runs", "watch", json.loads(again)["runId"], "--follow", "-n", "shop", "--json")
    refused = dev.ended("runs", "retry", json.loads(again)["runId"], "-n", "shop")
    assert (refused.returncode, "the gateway answered 409" in refused.stderr) == (2, True)


def test_a_waiting_run_is_cancelled(dev: Running) -> None:
    run = dev.started("long")
    eventually_sync(lambda: "waiting" in dev.stepwell("runs", "get", run, "--json"))
    assert dev.stepwell("runs", "cancel", run, "-n", "shop").strip() == run
    assert (
        dev.stepwell("runs", "watch", run, "--follow", "-n", "shop", code=1)
        .splitlines()[-1]
        .startswith(f"run {run} cancelled")
    )


def test_what_a_run_waits_for_is_approved_or_rejected(dev: Running) -> None:
    for word, approved in (("approve", True), ("reject", False)):
        run = dev.started("gate")
        eventually_sync(lambda run=run: "waiting" in dev.stepwell("runs", "get", run, "--json"))
        done = dev.ended(word, run, "ask", "-n", "shop", "--comment", "so be it", "--data", '{"limit": 3}')
        assert (done.returncode, f"step ask of run {run} is {word.removesuffix('e')}ed" in done.stderr) == (0, True)
        dev.stepwell("runs", "watch", run, "--follow", "-n", "shop")
        output = json.loads(dev.stepwell("runs", "get", run, "--json"))["output"]
        assert output == {"approved": approved, "by": "local", "comment": "so be it", "data": {"limit": 3}}
        again = dev.ended("approve" if not approved else "reject", run, "ask", "-n", "shop")
        assert (again.returncode, "the gateway answered 409" in again.stderr) == (2, True)


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["trigger", "sum", "-n", "shop", "-i", "[]"], 2, "a run's input is a JSON object"),
        (["trigger", "sum", "-n", "shop", "--priority", "Urgent"], 2, "it is one of Low, Normal, High"),
        (["trigger", "sum", "-n", "shop"], 2, "the gateway answered 400"),
        (["trigger", "nothing", "-n", "shop"], 2, "the gateway answered 404: there is no workflow shop/nothing"),
        (["trigger", "sum?a=1#b", "-n", "shop"], 2, "the gateway answered 404: nothing has a name like the one"),
        (["trigger", "x/../sum", "-n", "shop"], 2, "the gateway answered 404"),
        (["trigger", "sum", "-n", "shop/x"], 2, "the gateway answered 404"),
        (["trigger", "sum", "-n", "shop", "--key", ""], 2, "--key: a key has 1 to 256 bytes"),
        (["trigger", "sum", "-n", "shop", "--key", "a\nb"], 2, "--key: a key has 1 to 256 bytes"),
        (["trigger", "sum", "-n", "shop", "--key", "é" * 129], 2, "--key: a key has 1 to 256 bytes"),
        (["runs", "list", "--server", "http://x:port"], 2, "--server http://x:port: write an address"),
        (["runs", "list", "--server", "http://"], 2, "--server http://: write an address"),
        (["runs", "cancel", "nonsense"], 2, "there is no run nonsense"),
        (["runs", "list", "--server", "http://127.0.0.1:1"], 2, "set STEPWELL_TOKEN"),
    ],
)
def test_what_cannot_be_done_is_said(dev: Running, arguments: list[str], code: int, message: str) -> None:
    done = dev.ended(*arguments, **({"STEPWELL_TOKEN": "t"} if "address" in message else {}))
    assert (done.returncode, message in done.stderr) == (code, True), done.stderr


def test_a_gateway_that_is_away_and_a_token_that_is_wrong(dev: Running) -> None:
    away = dev.ended("runs", "list", "--server", "http://127.0.0.1:1", STEPWELL_TOKEN="t")
    assert (away.returncode, "http://127.0.0.1:1/ cannot be reached" in away.stderr) == (3, True), away.stderr
    odd = dev.ended("runs", "list", "--server", dev.address, STEPWELL_TOKEN="tökén")
    assert (odd.returncode, "a character that no token has" in odd.stderr, "ö" in odd.stderr) == (2, True, False)
    wrong = dev.ended("runs", "list", "--server", dev.address, STEPWELL_TOKEN="t")
    assert (wrong.returncode, "the gateway answered 401" in wrong.stderr) == (2, True)


# -- in a cluster ----------------------------------------------------------------------------------------------------------

KUBECTL = """\
#!{python}
import sys, time
words = sys.argv[1:]
with open({log!r}, "a") as log:
    print(*words, file=log)
if "config" in words:
    print('{{"contexts": [{{"context": {{"namespace": "shop"}}}}], "users": [{{"user": {user}}}]}}')
elif "create" in words:
    print({token!r})
elif "port-forward" in words:
    if {refuse}:
        sys.exit("error: services is forbidden")
    print("Forwarding from 127.0.0.1:{port} -> 8080", flush=True)
    time.sleep(60)
"""


def kubectl(dev: Running, place: Path, user: str = '{"token": "%s"}', *, refuse: bool = False) -> dict[str, str]:
    """An environment with a kubectl that reaches the gateway of ``dev``."""
    place.mkdir(exist_ok=True)
    program = place / "kubectl"
    user = user.replace("%s", dev.token)
    port = dev.address.rpartition(":")[2]
    program.write_text(
        KUBECTL.format(
            python=sys.executable, log=str(place / "log"), user=user, token=dev.token, port=port, refuse=refuse
        )
    )
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    return {"PATH": f"{place}:{os.environ['PATH']}", "STEPWELL_AS_PLUGIN": "1"}


def test_as_a_plug_in_it_acts_in_the_kubeconfigs_cluster_and_namespace(dev: Running, tmp_path: Path) -> None:
    env = kubectl(dev, tmp_path)
    plugin = str(commands.STEPWELL.with_name("kubectl-stepwell"))
    done = subprocess.run(
        [plugin, "trigger", "sum", "-i", '{"a": 1}', "--context", "there"], env=commands.environment(**env), text=True,
        capture_output=True, check=False, timeout=60,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    asked = (tmp_path / "log").read_text().splitlines()
    assert asked == [
        "--context there config view --minify --raw -o json",
        "--context there port-forward -n stepwell-system --address 127.0.0.1 service/stepwell-gateway :8080",
    ]
    assert dev.ended("runs", "list", "--json", **env).returncode == 0


def test_without_a_token_of_ones_own_a_service_accounts_is_asked_for(dev: Running, tmp_path: Path) -> None:
    env = kubectl(dev, tmp_path, '{"client-certificate": "x"}')
    refused = dev.ended("runs", "list", **env)
    assert (refused.returncode, "--service-account [NAMESPACE/]NAME" in refused.stderr) == (2, True)
    dev.stepwell("runs", "list", "--service-account", "ci", **env)
    assert "create token ci -n shop --duration 10m" in (tmp_path / "log").read_text()


def test_what_kubectl_says_is_passed_on(dev: Running, tmp_path: Path) -> None:
    done = dev.ended("runs", "list", **kubectl(dev, tmp_path, refuse=True))
    assert (done.returncode, "services is forbidden" in done.stderr) == (3, True), done.stderr
