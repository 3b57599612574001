"""The webhook's answers: every problem at once with its path, nothing but its own paths, certificates that follow each other."""

from __future__ import annotations

import asyncio
import base64
import json
import ssl
import threading
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import aiohttp
import orjson
import pytest
import yaml
from waiting import eventually

from stepwell.actions.registry import default_actions
from stepwell.domain.errors import UnavailableError, UsageError
from stepwell_operator.admission import server as server_module
from stepwell_operator.admission.certificates import Identity, issue, server_context, show
from stepwell_operator.admission.files import CertificateFiles
from stepwell_operator.admission.room import keep
from stepwell_operator.admission.server import MAX_BODY, PATHS, AdmissionServer, admission_server
from stepwell_operator.admission.trust import Trust, bundle_of, hosts_of

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping

ROOT = Path(__file__).parents[2]
HOSTS = frozenset({"127.0.0.1"})
HOUR = timedelta(hours=1)
NOW = datetime(2030, 1, 1, tzinfo=UTC)
GOOD = {"steps": [{"name": "a", "transform": {"value": 1}}]}
BAD = {
    "triggers": [{"name": "t", "cron": {"schedule": "0 3 * * *", "timeZone": "Mars/One"}}],
    "steps": [
        {"name": "a", "transform": {"value": "{{ steps.zz.output }}"}},
        {"name": "b", "needs": ["c"], "fail": {}},
    ],
}


class NoWorkflows:
    def __init__(self, **known: Any) -> None:
        self.known = known
        self.away = False

    async def find(self, namespace: str, name: str) -> Any:
        if self.away:
            raise UnavailableError("away")
        return self.known.get(f"{namespace}_{name}")


def identity(lifetime: timedelta = HOUR) -> Identity:
    return issue(HOSTS, datetime.now(UTC), lifetime)


def trusting(*authorities: bytes) -> ssl.SSLContext:
    return ssl.create_default_context(cadata=b"".join(authorities).decode())


@asynccontextmanager
async def served(workflows: NoWorkflows | None = None) -> AsyncIterator[tuple[str, aiohttp.ClientSession]]:
    context = server_context()
    made = identity()
    show(context, made.certificate, made.key)
    server = AdmissionServer(default_actions(), workflows or NoWorkflows())
    async with admission_server(server, context, "127.0.0.1", 0) as port:
        connector = aiohttp.TCPConnector(ssl=trusting(made.authority))
        async with aiohttp.ClientSession(connector=connector) as session:
            yield f"https://127.0.0.1:{port}", session


def review(spec: Any, kind: str = "Workflow", old: Any = None, **metadata: Any) -> dict[str, Any]:
    def made(value: Any) -> dict[str, Any]:
        return {
            "apiVersion": "stepwell.dev/v1alpha1",
            "kind": kind,
            "metadata": {"name": "w", "uid": "x", "managedFields": [{"manager": "kubectl"}], **metadata},
            "spec": value,
        }

    request = {
        "uid": "u-1",
        "kind": {"group": "stepwell.dev", "version": "v1alpha1", "kind": kind},
        "namespace": "growth",
        "name": "w",
        "operation": "CREATE" if old is None else "UPDATE",
        "object": made(spec),
        "oldObject": None if old is None else made(old),
    }
    return {"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "request": request}


async def asked(spec: Any, kind: str = "Workflow", workflows: NoWorkflows | None = None, **more: Any) -> dict[str, Any]:
    path = next(path for path, known in PATHS.items() if known == kind)
    async with served(workflows) as (url, session), session.post(url + path, json=review(spec, kind, **more)) as answer:
        assert answer.status == 200, await answer.text()
        found = json.loads(await answer.read())
    assert (found["apiVersion"], found["kind"]) == ("admission.k8s.io/v1", "AdmissionReview")
    assert found["response"]["uid"] == "u-1"
    response: dict[str, Any] = found["response"]
    return response


async def test_a_sound_workflow_is_allowed() -> None:
    assert await asked(GOOD) == {"uid": "u-1", "allowed": True}


async def test_every_problem_is_told_at_once_with_its_path() -> None:
    response = await asked({**BAD, "timeout": 5, "extra": 1})
    assert not response["allowed"]
    assert response["status"]["code"] == 422
    paths = {cause["field"] for cause in response["status"]["details"]["causes"]}
    zone, message = "spec.triggers[0].cron.timeZone", response["status"]["message"]
    assert paths == {zone, "spec.steps[1].fail.message", "spec.timeout", "spec.extra"}
    assert message.startswith("this Workflow has 4 problems:\n  ")
    assert all(f"\n  {path}: " in message for path in paths)


async def test_expressions_and_graph_are_checked() -> None:
    steps = [{"name": "a", "transform": {"value": "{{ steps.zz.output }}"}}]
    steps.append({"name": "b", "needs": ["b"], "fail": {"message": "{{ 1 + }}"}})
    response = await asked({"steps": steps})
    paths = {cause["field"] for cause in response["status"]["details"]["causes"]}
    assert paths == {"spec.steps[0].transform.value", "spec.steps[1].needs", "spec.steps[1].fail.message"}


async def test_one_problem_is_one_line() -> None:
    response = await asked({**GOOD, "priority": "high"})
    assert response["status"]["message"] == (
        "spec.priority: must be one of Low, Normal, High, not 'high'; did you mean High?"
    )


async def test_thousands_of_problems_are_cut() -> None:
    bad = {"steps": [{"name": f"s{index}", "fail": {"message": "{{ 1 + }}" + "x" * 300}} for index in range(200)]}
    response = await asked(bad)
    assert len(response["status"]["message"]) < 10_000
    assert "more; `stepwell validate` shows them all" in response["status"]["message"]
    assert len(response["status"]["details"]["causes"]) == 51
    assert response["status"]["details"]["causes"][-1]["message"].startswith("and 150 more")


@pytest.mark.parametrize("value", [9007199254740993, 12345678901234567000, 1e20, "a\0b", {"k\0": 1}, {"n": None}])
async def test_values_that_cannot_be_kept_are_refused(value: Any) -> None:
    response = await asked({"steps": [{"name": "a", "transform": {"value": {"v": value}}}]})
    assert response["status"]["details"]["causes"][0]["field"].startswith("spec.steps[0].transform.value.v")


async def test_a_nesting_without_end_is_refused() -> None:
    value: Any = 1
    for _ in range(200):
        value = [value]
    response = await asked({"steps": [{"name": "a", "transform": {"value": value}}]})
    assert "nested deeper than 64" in response["status"]["message"]


async def test_warnings_come_beside_what_is_allowed() -> None:
    response = await asked({"steps": [{"name": "a", "transform": {"set": {"password": "hunter2"}}}]})
    assert response["allowed"]
    (warning,) = response["warnings"]
    assert warning.startswith("spec.steps[0].transform.set.password: ")
    assert len(warning) <= 120


async def test_an_update_that_leaves_the_spec_passes_also_where_it_is_wrong() -> None:
    assert (await asked(BAD, old=BAD, labels={"team": "x"}))["allowed"]
    assert not (await asked(BAD, old=GOOD))["allowed"]
    assert (await asked(GOOD, old=BAD))["allowed"]


async def test_a_run_is_held_against_the_schema_of_its_workflow() -> None:
    schema = {"type": "object", "required": ["email"], "properties": {"email": {"type": "string"}}}
    stored = review({**GOOD, "inputSchema": schema})["request"]["object"]
    known = NoWorkflows(growth_w=stored)
    spec = {"workflowRef": {"name": "w"}, "input": {"email": 5}}
    refused = await asked(spec, "WorkflowRun", known)
    assert refused["status"]["details"]["causes"][0]["field"] == "spec.input.email"
    assert (await asked({**spec, "input": {"email": "a"}}, "WorkflowRun", known)) == {"uid": "u-1", "allowed": True}
    absent = await asked({"workflowRef": {"name": "v"}}, "WorkflowRun", known)
    assert absent["allowed"]
    assert absent["warnings"] == ["spec.workflowRef.name: there is no Workflow v in namespace growth"]
    known.away = True
    assert await asked(spec, "WorkflowRun", known) == {"uid": "u-1", "allowed": True}


async def test_a_run_of_a_workflow_that_is_wrong_itself_is_left_to_the_status() -> None:
    known = NoWorkflows(growth_w=review(BAD)["request"]["object"])
    assert (await asked({"workflowRef": {"name": "w"}}, "WorkflowRun", known))["allowed"]


# -- the server -------------------------------------------------------------------------------------------------------


def test_each_path_of_the_manifest_is_a_registered_handler() -> None:
    documents = list(yaml.safe_load_all((ROOT / "deploy" / "base" / "webhook.yaml").read_text()))
    (configuration,) = [each for each in documents if each["kind"] == "ValidatingWebhookConfiguration"]
    (service,) = [each for each in documents if each["kind"] == "Service"]
    named = {}
    for webhook in configuration["webhooks"]:
        client = webhook["clientConfig"]["service"]
        (rule,) = webhook["rules"]
        (plural,) = rule["resources"]
        named[client["path"]] = plural
        assert (webhook["failurePolicy"], webhook["timeoutSeconds"], webhook["sideEffects"]) == ("Ignore", 5, "None")
        assert client["name"] == service["metadata"]["name"]
        assert client["port"] == service["spec"]["ports"][0]["port"]
    assert named == {path: f"{kind.lower()}s" for path, kind in PATHS.items()}


@pytest.mark.parametrize(
    "path",
    ["/", "/validate", "/validate/workflow", "/validate/workflows/", "/validate/workflows/x", "//validate/workflows"],
)
async def test_an_unknown_path_is_refused(path: str) -> None:
    async with served() as (url, session), session.post(url + path, json=review(GOOD)) as answer:
        assert answer.status == 404
        assert b"allowed" not in await answer.read()


async def test_what_is_no_review_is_refused() -> None:
    broken = [b"", b"[]", b"{", b'{"apiVersion": "admission.k8s.io/v1beta1", "kind": "AdmissionReview"}', b"null"]
    whole = review(GOOD)
    broken += [orjson.dumps({**whole, "request": {**whole["request"], **change}}) for change in (
        {"object": None}, {"uid": 5}, {"kind": "Workflow"}, {"kind": {"kind": "Pod"}}, {"oldObject": []},
    )]  # fmt: skip
    async with served() as (url, session):
        for body in broken:
            async with session.post(f"{url}/validate/workflows", data=body) as answer:
                assert answer.status == 400, body
        async with session.get(f"{url}/validate/workflows") as answer:
            assert answer.status == 405
        async with session.post(f"{url}/validate/workflowruns", json=whole) as answer:
            assert answer.status == 400, "a path is for its kind only"


async def test_a_body_without_end_is_refused() -> None:
    body = BytesIO(b" " * (MAX_BODY + 1))
    async with served() as (url, session), session.post(f"{url}/validate/workflows", data=body) as answer:
        assert answer.status == 400
        assert "a review of over" in await answer.text()


async def test_a_check_without_end_is_given_up_and_the_next_is_answered(monkeypatch: pytest.MonkeyPatch) -> None:
    release = threading.Event()
    real = server_module.check_workflow

    def slow(*arguments: Any) -> Any:
        release.wait(30)
        return real(*arguments)

    monkeypatch.setattr(server_module, "check_workflow", slow)
    monkeypatch.setattr(server_module, "CHECKING", 0.05)
    async with served() as (url, session):
        async with session.post(f"{url}/validate/workflows", json=review(GOOD)) as answer:
            assert answer.status == 503
        release.set()
        monkeypatch.setattr(server_module, "CHECKING", 30.0)
        async with session.post(f"{url}/validate/workflows", json=review(GOOD)) as answer:
            assert answer.status == 200


async def test_who_says_nothing_is_let_go(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_module, "HANDSHAKE", 0.1)
    monkeypatch.setattr(server_module, "READING", 0.1)
    async with served() as (url, session):
        reader, writer = await asyncio.open_connection("127.0.0.1", int(url.rpartition(":")[2]))
        assert await asyncio.wait_for(reader.read(), 10) == b"", "no handshake"
        writer.close()
        waiting = asyncio.Event()

        async def dripping() -> AsyncIterator[bytes]:
            yield b"{"
            await waiting.wait()

        async with session.post(f"{url}/validate/workflows", data=dripping()) as answer:
            assert answer.status == 503, "no body"
        waiting.set()


async def test_there_are_no_more_connections_than_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_module, "CONNECTIONS", 1)
    connected, release = asyncio.Event(), asyncio.Event()

    async def dripping() -> AsyncIterator[bytes]:
        yield json.dumps(review(GOOD)).encode()
        connected.set()
        await release.wait()

    async with served() as (url, session):
        first = asyncio.create_task(session.post(f"{url}/validate/workflows", data=dripping()))
        await connected.wait()
        with pytest.raises(aiohttp.ClientError):
            await session.get(url)
        release.set()
        async with await first as answer:
            assert answer.status == 200


# -- certificates -----------------------------------------------------------------------------------------------------


class Cluster:
    """A ValidatingWebhookConfiguration in memory."""

    def __init__(self) -> None:
        self.webhooks: list[dict[str, Any]] | None = [
            {"name": "a", "clientConfig": {"service": {"name": "s", "namespace": "n", "path": "/a"}}},
            {"name": "b", "clientConfig": {"url": "https://127.0.0.1:9/b"}},
        ]
        self.away = False
        self.writes = 0

    async def read(self) -> Mapping[str, Any] | None:
        if self.away:
            raise UnavailableError("away")
        return None if self.webhooks is None else {"webhooks": self.webhooks}

    async def trust(self, bundles: Mapping[str, bytes]) -> None:
        self.writes += 1
        for webhook in self.webhooks or ():
            if webhook["name"] in bundles:
                webhook["clientConfig"]["caBundle"] = base64.b64encode(bundles[webhook["name"]]).decode()

    def bundles(self) -> set[bytes]:
        return {bundle_of(webhook) for webhook in self.webhooks or ()}


class Clock:
    now = NOW

    def __call__(self) -> datetime:
        return self.now


def trust(cluster: Cluster, clock: Clock) -> Trust:
    return Trust(cluster, server_context(), HOUR, clock)


async def test_the_bundle_of_every_webhook_is_written_once_and_mended() -> None:
    cluster, clock = Cluster(), Clock()
    keeper = trust(cluster, clock)
    assert await keeper.step()
    assert await keeper.step()
    assert keeper.current is not None
    assert keeper.current.hosts == hosts_of(cluster.webhooks or ()) == {"s.n.svc", "127.0.0.1"}
    assert cluster.bundles() == {keeper.current.authority}
    assert cluster.writes == 1
    (cluster.webhooks or [])[0]["clientConfig"].pop("caBundle")
    await keeper.step()
    assert cluster.bundles() == {keeper.current.authority}


async def test_a_successor_is_trusted_before_it_is_shown() -> None:
    cluster, clock = Cluster(), Clock()
    keeper = trust(cluster, clock)
    await keeper.step()
    first = keeper.current
    assert first is not None
    clock.now = NOW + HOUR * 2 / 3
    cluster.away = True
    with pytest.raises(UnavailableError):
        await keeper.step()
    cluster.away = False
    await keeper.step()
    assert keeper.current is first
    assert keeper.successor is not None
    second = keeper.successor
    assert cluster.bundles() == {first.authority + second.authority}
    await keeper.step()
    assert keeper.current is first, "API servers are given time to learn"
    clock.now += keeper.pause
    await keeper.step()
    assert keeper.current is second
    assert cluster.bundles() == {second.authority}


async def test_another_name_and_an_expired_certificate_are_followed_at_once() -> None:
    cluster, clock = Cluster(), Clock()
    keeper = trust(cluster, clock)
    await keeper.step()
    (cluster.webhooks or [])[0]["clientConfig"]["service"]["namespace"] = "other"
    await keeper.step()
    assert keeper.current is not None
    assert "s.other.svc" in keeper.current.hosts
    clock.now += HOUR * 2
    await keeper.step()
    assert keeper.current.expires == clock.now + HOUR
    assert cluster.bundles() == {keeper.current.authority}


async def test_without_a_configuration_nothing_is_written() -> None:
    cluster, clock = Cluster(), Clock()
    cluster.webhooks = None
    keeper = trust(cluster, clock)
    assert not await keeper.step()
    assert keeper.current is None
    assert cluster.writes == 0


async def test_a_rotation_is_seen_by_new_connections_and_felt_by_none() -> None:
    cluster = Cluster()
    cluster.webhooks = [{"name": "b", "clientConfig": {"url": "https://127.0.0.1:9/b"}}]
    context = server_context()
    clock = Clock()
    clock.now = datetime.now(UTC) - HOUR * 2  # clients look at the real clock
    keeper = Trust(cluster, context, HOUR * 3, clock)
    await keeper.step()
    server = AdmissionServer(default_actions(), NoWorkflows())
    async with admission_server(server, context, "127.0.0.1", 0) as port:
        url = f"https://127.0.0.1:{port}/validate/workflows"

        async def called(session: aiohttp.ClientSession) -> int:
            async with session.post(url, json=review(GOOD)) as answer:
                await answer.read()
                return answer.status

        (old_bundle,) = cluster.bundles()
        async with client(old_bundle) as before:
            assert await called(before) == 200
            clock.now += HOUR * 2
            await keeper.step()
            (both,) = cluster.bundles()
            async with client(both) as early:
                assert await called(early) == 200, "the bundle of both trusts what is shown now"
            clock.now += keeper.pause
            await keeper.step()
            assert await called(before) == 200, "an open connection goes on"
            for bundle in (both, *cluster.bundles()):
                async with client(bundle) as after:
                    assert await called(after) == 200
            async with client(old_bundle) as late:
                with pytest.raises(aiohttp.ClientConnectorCertificateError):
                    await called(late)


def client(bundle: bytes) -> aiohttp.ClientSession:
    return aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=trusting(bundle), limit=1))


async def test_files_are_followed_and_a_broken_pair_changes_nothing(tmp_path: Path) -> None:
    first, second = identity(), identity()
    context = server_context()
    files = CertificateFiles(tmp_path, context)
    with pytest.raises(UsageError, match=r"STEPWELL_ADMISSION_CERTIFICATES: no tls\.crt"):
        await files.step()

    def write(certificate: bytes, key: bytes) -> None:
        (tmp_path / "tls.crt").write_bytes(certificate)
        (tmp_path / "tls.key").write_bytes(key)

    write(first.certificate, first.key)
    await files.step()
    server = AdmissionServer(default_actions(), NoWorkflows())
    async with admission_server(server, context, "127.0.0.1", 0) as port:

        async def trusted(authority: bytes) -> bool:
            try:
                async with client(authority) as session, session.get(f"https://127.0.0.1:{port}/") as answer:
                    return answer.status == 404
            except aiohttp.ClientConnectorCertificateError:
                return False

        assert await trusted(first.authority)
        write(second.certificate, first.key)
        await files.step()
        assert await trusted(first.authority)
        write(second.certificate, second.key)
        await files.step()
        assert await trusted(second.authority)
        assert not await trusted(first.authority)


async def test_keeping_goes_on_after_an_outage() -> None:
    cluster, clock = Cluster(), Clock()
    cluster.away = True
    keeper = Trust(cluster, server_context(), timedelta(seconds=0.2), clock)
    keeping = asyncio.create_task(keep(keeper))
    try:
        await asyncio.sleep(0)
        cluster.away = False
        await eventually(lambda: cluster.writes)
    finally:
        keeping.cancel()


async def test_a_port_in_use_is_an_error_that_says_what_to_do() -> None:
    server = AdmissionServer(default_actions(), NoWorkflows())
    async with admission_server(server, server_context(), "127.0.0.1", 0) as port:
        with pytest.raises(UnavailableError, match="set STEPWELL_ADMISSION_PORT to a free port"):
            async with admission_server(server, server_context(), "127.0.0.1", port):
                pass
