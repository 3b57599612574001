"""`stepwell dev` as a user sees it: manifests that come, change and go, runs that outlive it, its lines and exit codes."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import threading
import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, LiteralString

import commands
import psycopg
import pytest
from waiting import eventually_sync

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

PURE = """\
apiVersion: stepwell.dev/v1alpha1
kind: Workflow
metadata: {{name: {name}}}
spec:
  steps:
    - name: say
      transform: {{value: {value}}}
"""
CALLS = """\
apiVersion: stepwell.dev/v1alpha1
kind: Workflow
metadata: {{name: calls}}
spec:
  steps:
    - name: first
      httpCall: {{method: POST, url: "http://127.0.0.1:{port}/first"}}
    - name: second
      httpCall: {{method: POST, url: "http://127.0.0.1:{port}/held"}}
    - name: last
      transform: {{value: all done}}
"""
CLOCK = """\
apiVersion: stepwell.dev/v1alpha1
kind: Workflow
metadata: {name: clock}
spec:
  triggers:
    - name: yearly
      cron: {schedule: "0 3 1 1 *"}
      input: {at: "{{ trigger.scheduledTime }}"}
  steps:
    - name: say
      transform: {value: "{{ at }}"}
"""
SECRET = """\
apiVersion: v1
kind: Secret
metadata: {{name: api, labels: {{stepwell.dev/use: "true"}}}}
stringData: {{token: {token}}}
"""


HOOK = """\
apiVersion: stepwell.dev/v1alpha1
kind: Workflow
metadata: {name: signup, namespace: shop}
spec:
  triggers:
    - name: github
      webhook:
        auth: {hmac: {preset: GitHub, secretRefs: [{name: signup-hook, key: secret}]}}
      if: "body.action == 'created'"
      input: {email: "{{ body.user.email }}"}
  steps:
    - name: pick
      transform: {select: [email]}
---
apiVersion: v1
kind: Secret
metadata: {name: signup-hook, namespace: shop, labels: {stepwell.dev/use: "true"}}
stringData: {secret: "It's a Secret to Everybody"}
"""


def pure(name: str, value: str = "one") -> str:
    return PURE.format(name=name, value=value)


@dataclass
class Dev:
    """A `stepwell dev` in ``folder``, and all that was said by those that ran there before."""

    folder: Path
    env: dict[str, str] = field(default_factory=dict)
    process: subprocess.Popen[bytes] | None = None
    seen: int = 0
    starts: int = 0

    @property
    def said(self) -> str:
        return "".join(log.read_text() for log in sorted(self.folder.glob(".said-*")))

    def start(self, *arguments: str | Path) -> None:
        self.starts += 1
        with (self.folder / f".said-{self.starts}").open("wb") as output:
            command = [str(commands.STEPWELL), "dev", *map(str, arguments)]
            env = commands.environment(PORT="0", **self.env)
            self.process = subprocess.Popen(command, cwd=self.folder, env=env, stdout=output, stderr=output)
        self.until(r"ready +stepwell dev")

    def until(self, pattern: str, deadline: float = 60.0) -> str:
        """The next line that matches; what was said before it does not count again."""

        def found() -> re.Match[str] | None:
            if self.process and self.process.poll() is not None:
                raise AssertionError(f"stepwell dev ended with {self.process.returncode}:\n{self.said}")
            return re.compile(rf"^.*{pattern}.*$", re.MULTILINE).search(self.said, self.seen)

        try:
            match = eventually_sync(found, deadline)
        except AssertionError as exc:
            raise AssertionError(f"{pattern!r} was not said:\n{self.said}") from exc
        self.seen = match.end()
        return match.group()

    def end(self, number: int = signal.SIGTERM) -> int:
        """Its exit code after a signal."""
        assert self.process
        self.process.send_signal(number)
        return self.process.wait(commands.TIMEOUT)

    def stepwell(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Another command in the same folder."""
        return commands.within(*arguments, folder=self.folder)

    def refused(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """The same in a process of its own: one that would go on for ever if it were not refused."""
        with self.other(*arguments) as process:
            output, errors = process.communicate(timeout=commands.TIMEOUT)
        return subprocess.CompletedProcess(arguments, process.returncode, output, errors)

    @contextmanager
    def other(self, *arguments: str) -> Iterator[subprocess.Popen[str]]:
        command = [str(commands.STEPWELL), *arguments]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "stdin": subprocess.DEVNULL}
        with subprocess.Popen(command, cwd=self.folder, env=commands.environment(), text=True, **pipes) as process:
            try:
                yield process
            finally:
                process.kill()


@pytest.fixture
def dev(tmp_path: Path) -> Iterator[Dev]:
    made = Dev(tmp_path)
    yield made
    if made.process and made.process.poll() is None:
        made.process.kill()
        made.process.wait()


@pytest.fixture
def light(dev: Dev, database: str, redis_url: str) -> Dev:
    """One on services that run already, where those are not what is tested: two seconds less."""
    dev.env = {"DATABASE_URL": database, "REDIS_URL": redis_url}
    return dev


@dataclass
class Receiver:
    """Answers at once, but for /held: after ``release``. ``keys`` are the Idempotency-Keys that came, by path."""

    port: int = 0
    keys: list[tuple[str, str]] = field(default_factory=list)
    tokens: list[str] = field(default_factory=list)
    release: threading.Event = field(default_factory=threading.Event)

    def count(self, path: str) -> int:
        return sum(1 for known, _ in self.keys if known == path)


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    state = Receiver()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            state.tokens.append(self.headers.get("Authorization", ""))
            state.keys.append((self.path, self.headers["Idempotency-Key"]))
            if self.path == "/held":
                state.release.wait(commands.TIMEOUT)
            self.send_response(204)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    class Server(ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, *_: object) -> None:  # a client that was killed
            pass

    with Server(("127.0.0.1", 0), Handler) as server:
        state.port = server.server_address[1]
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        yield state
        state.release.set()
        server.shutdown()


# -- manifests ---------------------------------------------------------------------------------------------------------


def test_the_life_of_a_manifest(dev: Dev) -> None:
    manifest = dev.folder / "flows" / "hello.yaml"
    manifest.parent.mkdir()
    (dev.folder / "compose.yaml").write_text("services: {web: {image: nginx}}\n")
    (dev.folder / "chart.yml").write_text("{{ if .Values.x }}\nkind: ConfigMap\n")
    dev.start()
    dev.until("no manifest yet")
    manifest.write_text(pure("hello"))
    assert "default/hello  revision 1, flows/hello.yaml:1" in dev.until("applied ")
    done = dev.stepwell("run", "flows/hello.yaml")
    assert (done.returncode, done.stdout) == (0, '"one"\n'), done.stderr
    assert f"using `stepwell dev` in {dev.folder}, process {dev.process and dev.process.pid}" in done.stderr
    started = dev.until("started +default/hello")
    assert started.split()[-1] in dev.until(r"succeeded +default/hello +\S+ +in \d")

    manifest.write_text(pure("hello", "two"))  # edited
    dev.until("applied +default/hello")
    assert dev.stepwell("run", "flows/hello.yaml").stdout == '"two"\n'
    other = dev.folder / "flows" / "other.yaml"
    other.write_text(pure("other"))
    dev.until("applied +default/other")

    manifest.write_text(pure("hello", "three").replace("transform", "transfrom"))  # bad
    dev.until(r"^flows/hello.yaml:7: spec.steps\[0\].transfrom: unknown field")
    kept = dev.until("kept +default/hello")
    assert "goes on until flows/hello.yaml is sound" in kept
    with psycopg.connect(connection(dev)["databaseUrl"]) as database:
        query = "SELECT v.spec::text FROM workflows w JOIN workflow_revisions v ON v.id = active_revision_id"
        specs = [row[0] for row in database.execute(f"{query} WHERE name = 'hello' AND deleted_at IS NULL").fetchall()]
    assert len(specs) == 1
    assert "two" in specs[0]
    other.unlink()  # what is missed may be in the bad one
    dev.until("kept +default/other +no sound manifest holds it; it stays until flows/hello.yaml is sound")

    half = manifest.with_name(".hello.yaml.swp")  # put right, as editors do it
    half.write_text(pure("hello", "three"))
    half.rename(manifest)
    dev.until("sound +flows/hello.yaml")
    dev.until("applied +default/hello")
    dev.until("withdrawn +default/other +flows/other.yaml is gone; runs that were accepted go on")

    twin = dev.folder / "flows" / "a-twin.yaml"
    twin.write_text(pure("hello", "four"))
    dev.until(
        "^flows/a-twin.yaml:3: metadata.name: Workflow default/hello stands already at flows/hello.yaml:1; keep one"
    )
    manifest.unlink()
    dev.until("sound +flows/a-twin.yaml")
    dev.until("applied +default/hello .*flows/a-twin.yaml:1")
    assert dev.end() == 0
    assert re.search(r"stopping +stepwell dev$", dev.said, re.MULTILINE)
    assert "WARNING" not in dev.said


def test_what_is_kept_and_what_a_file_that_went_meanwhile_leaves(
    dev: Dev, record_property: Callable[[str, object], None]
) -> None:
    for name in "stays", "goes":
        (dev.folder / f"{name}.yaml").write_text(pure(name))
    dev.start()
    run = json.loads(dev.stepwell("run", "goes.yaml", "--json").stdout)
    assert dev.end(signal.SIGINT) == 0
    assert not (dev.folder / ".stepwell" / "dev.json").exists()
    (dev.folder / "goes.yaml").unlink()
    (dev.folder / "bad.yaml").write_text(pure("bad").replace("steps", "stops"))

    began = time.monotonic()
    dev.start()
    record_property("warm_start_seconds", round(time.monotonic() - began, 3))
    print(f"warm start: {time.monotonic() - began:.2f} s")
    dev.until("kept +default/goes .*it stays until bad.yaml is sound")
    assert "unchanged  default/stays  revision" in dev.said
    (dev.folder / "bad.yaml").unlink()
    dev.until("withdrawn +default/goes +no manifest holds it")
    listed = json.loads(dev.stepwell("runs", "list", "--json").stdout)["runs"]
    assert [(known["id"], known["status"]) for known in listed] == [(run["id"], "succeeded")]
    (dev.folder / "goes.yaml").write_text(pure("goes"))  # its history goes on
    dev.until("applied +default/goes")
    assert dev.stepwell("runs", "get", run["id"]).returncode == 0
    assert dev.end() == 0


def connection(dev: Dev) -> dict[str, str]:
    path = dev.folder / ".stepwell" / "dev.json"
    assert path.stat().st_mode & 0o777 == 0o600
    found: dict[str, str] = json.loads(path.read_text())
    return found


def test_secrets_from_a_file_and_beside_the_manifests(light: Dev, receiver: Receiver) -> None:
    dev = light
    auth = f"httpCall: {{auth: {{bearer: {{secretRef: {{name: api, key: token}}}}}}, method: POST, url: 'http://127.0.0.1:{receiver.port}/x'}}"
    (dev.folder / "flow.yaml").write_text(pure("flow").replace("transform: {value: one}", auth))
    (dev.folder / "secret.yaml").write_text(SECRET.format(token="beside-the-manifest"))
    dev.start()
    assert dev.stepwell("run", "flow.yaml").returncode == 0
    (dev.folder / "secret.yaml").write_text(SECRET.format(token="changed-meanwhile"))
    dev.until("read +default/api +Secret, secret.yaml:1")
    assert dev.stepwell("run", "flow.yaml").returncode == 0
    assert receiver.tokens == ["Bearer beside-the-manifest", "Bearer changed-meanwhile"]
    refused = dev.stepwell("run", "flow.yaml", "--secrets", "secret.yaml")
    assert (refused.returncode, "give --secrets to that one" in refused.stderr) == (2, True)
    assert dev.end() == 0
    given = dev.folder / ".given.yaml"
    given.write_text(SECRET.format(token="given-by-option"))
    dev.start(".", "--secrets", given)
    assert dev.stepwell("run", "flow.yaml").returncode == 0
    assert receiver.tokens[-1] == "Bearer given-by-option"
    given.write_text(given.read_text().rstrip("}\n"))  # half of a flow map
    dev.until(r"\.given\.yaml:5: not valid YAML")
    assert dev.stepwell("run", "flow.yaml").returncode == 0
    assert receiver.tokens[-1] == "Bearer given-by-option"
    given.unlink()
    dev.until("read +default/api +Secret, secret.yaml:1")
    (dev.folder / "secret.yaml").unlink()
    dev.until("withdrawn +default/api +Secret, secret.yaml is gone")
    assert "beside-the-manifest" not in dev.said


# -- runs that outlive it ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("services", "signals"),
    [("dev", [signal.SIGKILL]), ("light", [signal.SIGINT, signal.SIGINT])],
    ids=["killed with its servers", "ordered"],
)
def test_a_run_in_flight_goes_on_at_the_next_start(
    services: str, signals: list[int], receiver: Receiver, request: pytest.FixtureRequest
) -> None:
    dev: Dev = request.getfixturevalue(services)
    (dev.folder / "calls.yaml").write_text(CALLS.format(port=receiver.port))
    dev.start()
    with dev.other("run", "calls.yaml") as client:
        eventually_sync(lambda: receiver.count("/held") == 1, 20)
        for number in signals[:-1]:
            assert dev.process
            dev.process.send_signal(number)
            dev.until("stopping +stepwell dev +steps in flight may take 45s to end; Ctrl-C again")
        code = dev.end(signals[-1])
        assert code == (-signal.SIGKILL if signals == [signal.SIGKILL] else 130)
        dev.start()
        dev.until("resumed +default/calls")
        eventually_sync(lambda: receiver.count("/held") == 2, 20)
        receiver.release.set()
        dev.until("succeeded +default/calls")
        output, shown = client.communicate(timeout=60)
    assert (client.returncode, output) == (0, '"all done"\n'), shown
    assert receiver.count("/first") == 1
    assert len({key for path, key in receiver.keys if path == "/held"}) == 1
    assert dev.end() == 0


def test_sigterm_lets_steps_in_flight_end(light: Dev, receiver: Receiver) -> None:
    dev = light
    (dev.folder / "calls.yaml").write_text(CALLS.format(port=receiver.port))
    dev.start()
    with dev.other("run", "calls.yaml"):
        eventually_sync(lambda: receiver.count("/held") == 1, 20)
        assert dev.process
        dev.process.send_signal(signal.SIGTERM)
        dev.until("stopping ")
        receiver.release.set()
        assert dev.process.wait(20) == 0
    dev.process = None
    assert receiver.count("/held") == 1
    dev.until("succeeded +default/calls", 0.0)


def test_servers_that_are_killed_are_started_again(dev: Dev, receiver: Receiver) -> None:
    (dev.folder / "calls.yaml").write_text(CALLS.format(port=receiver.port))
    dev.start()
    with dev.other("run", "calls.yaml") as client:
        eventually_sync(lambda: receiver.count("/held") == 1, 20)
        postgres = (dev.folder / ".stepwell/postgres/data/postmaster.pid").read_text().splitlines()[0]
        os.kill(int(postgres), signal.SIGKILL)
        dev.until("the local Postgres ended; it is started again")
        receiver.release.set()
        dev.until("succeeded +default/calls")
        output, shown = client.communicate(timeout=60)
    assert (client.returncode, output) == (0, '"all done"\n'), shown
    assert dev.end() == 0
    assert "Traceback" not in dev.said


# -- the environment -----------------------------------------------------------------------------------------------------


def test_signed_deliveries_sent_by_curl_start_runs(light: Dev) -> None:
    (light.folder / "hooks.yaml").write_text(HOOK)
    light.start()
    (url,) = re.findall(r"hook +shop/signup +POST (http\S+)", light.said)
    body = '{"action": "created", "user": {"email": "a@b.example"}}'
    digest = ["openssl", "dgst", "-sha256", "-hmac", "It's a Secret to Everybody"]
    signed = subprocess.run(digest, input=body, capture_output=True, text=True, check=True).stdout.split()[-1]
    headers = [f"X-Hub-Signature-256: sha256={signed}", "Content-Type: application/json", "X-GitHub-Delivery: 7d3f"]
    curl = ["curl", "-sS", "-w", "\n%{http_code}", *(part for h in headers for part in ("-H", h)), "-d"]
    for status, word in ((202, "accepted"), (200, "repeated")):
        answered = subprocess.run([*curl, body, url], capture_output=True, text=True, check=True).stdout
        assert answered.endswith(f"\n{status}"), (word, answered)
    refused = subprocess.run([*curl, body + " ", url], capture_output=True, text=True, check=True).stdout
    assert refused.endswith("\n401")
    light.until(r"succeeded +shop/signup")


def test_the_clock_starts_runs(light: Dev, database: str) -> None:
    (light.folder / "clock.yaml").write_text(CLOCK)
    light.start()
    with psycopg.connect(database, autocommit=True) as connected:

        def moved() -> bool:
            """Nobody was there for this year's tick yet."""
            text: LiteralString = (
                "UPDATE schedules SET tick_at = t, due_at = t"
                " FROM (SELECT date_trunc('year', now(), 'UTC') + interval '3 hours' AS t) AS y RETURNING 1"
            )
            return connected.execute(text).fetchone() is not None

        eventually_sync(moved, 20.0)
        light.until(r"succeeded +default/clock")
        ticks = connected.execute("SELECT reason, run_id FROM schedule_ticks").fetchall()
        (run,) = connected.execute("SELECT id, input_data FROM workflow_runs WHERE trigger = 'yearly'").fetchall()
    assert ticks == [(None, run[0])]
    assert re.fullmatch(r"20\d\d-01-01T03:00:00Z", run[1]["at"])


def test_a_port_that_is_taken_is_named(light: Dev) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        ended = commands.stepwell("dev", str(light.folder), env=light.env | {"PORT": port})
    assert ended.returncode == 3
    assert f"127.0.0.1 port {port} cannot be served on: Address already in use; set PORT to a free port" in ended.stderr


def test_a_second_one_is_refused_and_names_the_first(light: Dev) -> None:
    dev = light
    (dev.folder / "bad.yaml").write_text(pure("bad").replace("steps", "stops"))
    dev.start()
    dev.until("note +nothing is applied until bad.yaml is sound")
    done = dev.refused("dev")
    assert dev.process
    assert (done.returncode, done.stdout) == (3, "")
    assert done.stderr == (
        f"stepwell: `stepwell dev` runs in {dev.folder} already, as process {dev.process.pid}: stop that one first\n"
    )
    dev.process.kill()
    dev.process.wait()
    listing = dev.stepwell("runs", "list")  # its connection file is still there
    assert (listing.returncode, "set DATABASE_URL" in listing.stderr) == (2, True)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere"], "nowhere: there is no such file or directory"),
        (["--secrets", "bad.yaml"], "bad.yaml:1: apiVersion and kind must be set"),
    ],
)
def test_wrong_usage(dev: Dev, arguments: list[str], message: str) -> None:
    (dev.folder / "bad.yaml").write_text("{}\n")
    done = dev.refused("dev", *arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert message in done.stderr


def test_a_database_of_ones_own_is_shared_with_others(light: Dev, database: str) -> None:
    """There only what this `dev` applied is withdrawn by it."""
    dev = light
    theirs = dev.folder / "theirs.yaml"
    theirs.write_text(pure("theirs"))
    assert commands.within("run", theirs, env=dev.env).returncode == 0
    (dev.folder / "flows").mkdir()
    (dev.folder / "flows" / "ours.yaml").write_text(pure("ours"))
    dev.start("flows")
    assert dev.stepwell("run", "flows/ours.yaml").stdout == '"one"\n'
    (dev.folder / "flows" / "ours.yaml").unlink()
    dev.until("withdrawn +default/ours")
    assert dev.end() == 0
    assert not (dev.folder / ".stepwell" / "postgres").exists()
    with psycopg.connect(database) as connected:
        rows = connected.execute("SELECT name, deleted_at IS NULL FROM workflows ORDER BY name").fetchall()
    assert rows == [("ours", False), ("theirs", True)]


def test_json_lines(light: Dev) -> None:
    dev = light
    (dev.folder / "hello.yaml").write_text(pure("hello"))
    command = [str(commands.STEPWELL), "dev", "--json"]
    with subprocess.Popen(
        command, cwd=dev.folder, env=commands.environment(PORT="0", **dev.env), stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout
        events = []
        for line in process.stdout:
            events.append(json.loads(line))
            if events[-1]["event"] == "ready":
                process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0
    assert [event["event"] for event in events] == ["applied", "ready", "note", "stopping"]
    assert events[0] | {"time": ""} == {
        "event": "applied", "time": "", "subject": "default/hello", "text": "revision 1, hello.yaml:1",
        "workflow": "default/hello", "revision": 1, "file": "hello.yaml", "line": 1,
    }  # fmt: skip
    assert events[1]["pid"] == process.pid
