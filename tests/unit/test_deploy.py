"""The manifests as kustomize renders them: that their parts fit together, and fit what the processes do."""

from __future__ import annotations

import copy
import os
import re
import subprocess
import tomllib
from ipaddress import ip_address, ip_network
from typing import TYPE_CHECKING, Any

import manifests
import pytest
import yaml
from manifests import CHECKS, DEPLOY, ROOT, TARGETS, complaints, kustomize, of, parsed, pods, rendered

from stepwell.adapters.http.guard import METADATA
from stepwell.domain.durations import parse_duration
from stepwell.settings import read
from stepwell_gateway import serving

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.skipif(manifests.kubectl() is None, reason="no kubectl, whose kustomize renders the manifests")
STEP_TIMEOUT = 30.0  #: seconds; the default, and the longest that the shipped settings are made for
OWN = ("operator", "gateway", "worker")


def container(target: str, component: str) -> dict[str, Any]:
    (found,) = pods(rendered(target))[f"stepwell-{component}"]["spec"]["containers"]
    return dict(found)


def config(target: str) -> dict[str, str]:
    """The ConfigMap of settings."""
    (found,) = [each for name, each in of(rendered(target), "ConfigMap").items() if name.startswith("stepwell-config")]
    return dict(found["data"])


# -- policy ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("target", TARGETS)
def test_every_pod_follows_the_rules(target: str) -> None:
    templates = pods(rendered(target))
    assert templates
    assert {name: list(complaints(template)) for name, template in templates.items()} == {
        name: [] for name in templates
    }


BREAKS: dict[str, Any] = {
    "runs as non-root": lambda pod, each: pod["securityContext"].pop("runAsNonRoot"),
    "has a fixed high user id": lambda pod, each: each["securityContext"].update(runAsUser=0),
    "has a read-only root": lambda pod, each: each["securityContext"].pop("readOnlyRootFilesystem"),
    "gains no privileges": lambda pod, each: each["securityContext"].update(privileged=True),
    "drops all capabilities": lambda pod, each: each["securityContext"]["capabilities"].update(add=["NET_ADMIN"]),
    "has seccomp": lambda pod, each: each["securityContext"].update(seccompProfile={"type": "Unconfined"}),
    "shares no host": lambda pod, each: pod.update(hostNetwork=True),
    "mounts no host path": lambda pod, each: pod.update(volumes=[{"name": "x", "hostPath": {"path": "/"}}]),
    "takes no host port": lambda pod, each: each["ports"].append({"containerPort": 1, "hostPort": 1}),
    "bounds its memory": lambda pod, each: each["resources"].pop("limits"),
    "asks for CPU and memory": lambda pod, each: each["resources"]["requests"].pop("cpu"),
    "names a version": lambda pod, each: each.update(image="registry:5000/stepwell:latest"),
    "says whether it wants a token": lambda pod, each: pod.pop("automountServiceAccountToken"),
    "uses no default account": lambda pod, each: pod.pop("serviceAccountName"),
    "takes no variables of Services": lambda pod, each: pod.pop("enableServiceLinks"),
    "writes no password out": lambda pod, each: each["env"].append({"name": "DATABASE_URL", "value": "x"}),
}


@pytest.mark.parametrize("check", [check.name for check in CHECKS if not check.ignored])
def test_a_broken_rule_is_found(check: str) -> None:
    template = copy.deepcopy(pods(rendered("base"))["stepwell-worker"])
    if check == "says whether it wants a token":
        with pytest.raises(KeyError):
            _broken(template, check)
    else:
        assert f"worker: {check}" in _broken(template, check)


def _broken(template: dict[str, Any], check: str) -> list[str]:
    BREAKS[check](template["spec"], template["spec"]["containers"][0])
    return list(complaints(template))


# -- parts that fit -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("target", TARGETS)
def test_selectors_find_pods_and_ports_have_names(target: str) -> None:
    documents = rendered(target)
    templates = pods(documents).values()

    def chosen(labels: dict[str, str]) -> list[dict[str, Any]]:
        return [each for each in templates if labels.items() <= each["metadata"]["labels"].items()]

    for service in of(documents, "Service").values():
        found = chosen(service["spec"]["selector"])
        assert found, service["metadata"]["name"]
        ports = {
            key: port
            for each in found
            for one in each["spec"]["containers"]
            for port in one["ports"]
            for key in (port.get("name"), port["containerPort"])
        }
        for port in service["spec"]["ports"]:
            assert port["targetPort"] in ports, service["metadata"]["name"]
    for each in of(documents, "PodDisruptionBudget", "Deployment", "StatefulSet").values():
        assert chosen(each["spec"]["selector"]["matchLabels"]), each["metadata"]["name"]
    for policy in of(documents, "NetworkPolicy").values():
        selector = policy["spec"]["podSelector"]
        if "matchLabels" in selector:
            assert chosen(selector["matchLabels"]), policy["metadata"]["name"]


@pytest.mark.parametrize("target", ["base", "overlays/kind", "overlays/production"])
def test_each_process_runs_its_command_under_its_account(target: str) -> None:
    documents = rendered(target)
    accounts, templates = of(documents, "ServiceAccount"), pods(documents)
    for component in OWN:
        spec = templates[f"stepwell-{component}"]["spec"]
        assert spec["containers"][0]["args"] == ["stepwell", component]
        assert spec["serviceAccountName"] == f"stepwell-{component}"
        assert accounts[f"stepwell-{component}"]["automountServiceAccountToken"] is False, "other pods get no token"
    (migrating,) = templates["stepwell-operator"]["spec"]["initContainers"]
    assert migrating["args"][:3] == ["stepwell", "migrate", "--wait"]
    assert parse_duration(migrating["args"][3]) >= 300, "longer than databases take to come up with the rest"
    assert {each["image"] for name in OWN for each in [container(target, name)]} == {migrating["image"]}
    others = {name for name in templates if not name.startswith("stepwell-")}
    assert not [name for name in others if templates[name]["spec"]["automountServiceAccountToken"]]


def test_the_image_is_of_this_version() -> None:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["version"]
    assert container("base", "worker")["image"] == f"stepwell:{version}"
    assert container("overlays/production", "worker")["image"].endswith(f"/stepwell:{version}")
    assert f"ARG VERSION={version}\n" in (ROOT / "Dockerfile").read_text("utf-8")


@pytest.mark.parametrize("target", ["base", "overlays/kind", "overlays/production"])
def test_settings_are_known_and_can_be_read(target: str) -> None:
    known = set(re.findall(r"^\| `([A-Z_]+)`", (ROOT / "docs" / "settings.md").read_text("utf-8"), re.MULTILINE))
    assert {*config(target)} <= known
    settings = read(config(target))
    for component in OWN:
        links = {"STEPWELL_APPROVAL_KEY"} if component in {"gateway", "worker"} else set()
        assert {each["name"] for each in container(target, component)["env"]} == {"DATABASE_URL", "REDIS_URL"} | links
        assert links <= known
        ports = {each["name"]: each["containerPort"] for each in container(target, component)["ports"]}
        expected = {"metrics": settings.operations.port}
        if component == "gateway":
            expected["http"] = settings.gateway.port
        if component == "operator":
            expected["admission"] = settings.operator.admission.port
        assert ports == expected


@pytest.mark.parametrize("target", ["base", "overlays/kind", "overlays/production"])
def test_there_is_time_to_end(target: str) -> None:
    grace = {name: pods(rendered(target))[f"stepwell-{name}"]["spec"]["terminationGracePeriodSeconds"] for name in OWN}
    drain = parse_duration(config(target)["STEPWELL_GRACE"])
    assert drain >= STEP_TIMEOUT + 15
    assert grace["worker"] >= drain + 15
    wait = container(target, "gateway")["lifecycle"]["preStop"]["sleep"]["seconds"]
    assert grace["gateway"] >= wait + serving.LAST + serving.GRACE + 5


@pytest.mark.parametrize("target", ["base", "overlays/kind", "overlays/production"])
def test_how_many_there_are(target: str) -> None:
    found = of(rendered(target), "Deployment")
    assert "replicas" not in found["stepwell-worker"]["spec"], "an autoscaler's"
    assert found["stepwell-operator"]["spec"]["replicas"] == 1
    assert found["stepwell-operator"]["spec"]["strategy"] == {"type": "Recreate"}
    assert found["stepwell-gateway"]["spec"]["replicas"] >= 2


def test_only_hooks_and_approvals_are_reached_from_outside() -> None:
    documents = rendered("overlays/production")
    (ingress,) = of(documents, "Ingress").values()
    (rule,) = ingress["spec"]["rules"]
    assert [each["path"] for each in rule["http"]["paths"]] == ["/hooks", "/approvals"]
    assert {each["pathType"] for each in rule["http"]["paths"]} == {"Prefix"}
    assert [each["hosts"] for each in ingress["spec"]["tls"]] == [[rule["host"]]]
    assert config("overlays/production")["STEPWELL_PUBLIC_URL"] == f"https://{rule['host']}"
    service = of(documents, "Service")["stepwell-gateway"]
    named = {each["name"]: each["port"] for each in service["spec"]["ports"]}
    assert named == {"http": 8080, "metrics": 9090}
    assert {each["backend"]["service"]["port"]["name"] for each in rule["http"]["paths"]} == {"http"}
    assert not [
        each for each in documents if each["kind"] == "Service" and each["spec"].get("type", "ClusterIP") != "ClusterIP"
    ]
    assert "Secret" not in {each["kind"] for each in documents}, "theirs, made by whoever installs"


def test_databases_may_write_where_their_images_do() -> None:
    """PostgreSQL 18 keeps its data in a directory of its version, under the mount; initdb makes files in /tmp."""
    needs = {"postgres": {"/var/lib/postgresql", "/var/run/postgresql", "/tmp"}, "valkey": {"/data"}}
    found = {name: each["spec"] for name, each in pods(rendered("overlays/kind")).items() if name in needs}
    for name, spec in found.items():
        mounts = {each["mountPath"] for each in spec["containers"][0]["volumeMounts"] if not each.get("readOnly")}
        assert mounts == needs[name]
        context = spec["securityContext"]
        assert context["fsGroup"] == context["runAsGroup"], "else a new directory is root's"
    assert {*found} == {*needs}


def test_kind_hands_the_port_on() -> None:
    (mapping,) = kind_config()["nodes"][0]["extraPortMappings"]
    (port,) = of(rendered("overlays/kind"), "Service")["stepwell-gateway-node"]["spec"]["ports"]
    assert mapping["containerPort"] == port["nodePort"]
    assert config("overlays/kind")["STEPWELL_PUBLIC_URL"] == f"http://{mapping['listenAddress']}:{mapping['hostPort']}"


def test_kind_reads_its_configuration() -> None:
    """It refuses what it does not know; the names of its v1alpha4, as far as this takes them."""
    found = kind_config()
    assert (found["kind"], found["apiVersion"]) == ("Cluster", "kind.x-k8s.io/v1alpha4")
    assert {*found} <= {"kind", "apiVersion", "name", "nodes", "networking", "featureGates", "runtimeConfig"}
    for node in found["nodes"]:
        assert {*node} <= {"role", "image", "labels", "extraMounts", "extraPortMappings", "kubeadmConfigPatches"}
        assert node["role"] in {"control-plane", "worker"}
        for mapping in node.get("extraPortMappings", ()):
            assert {*mapping} <= {"containerPort", "hostPort", "listenAddress", "protocol"}
            assert ip_address(mapping["listenAddress"]).is_loopback, "a cluster to try out is nobody else's"
    makefile = (ROOT / "Makefile").read_text("utf-8")
    assert f"--context kind-{found['name']}\n" in makefile
    assert {*re.findall(r"--name (\w+)", makefile)} == {found["name"]}


def test_kind_asks_no_registry_for_what_was_loaded() -> None:
    own = [
        each
        for target in ("overlays/kind", "overlays/kind/samples")
        for template in pods(rendered(target)).values()
        for each in [*template["spec"].get("initContainers", ()), *template["spec"]["containers"]]
        if each["image"].startswith("stepwell")
    ]
    assert {each["image"] for each in own} == {"stepwell:kind"}
    assert {each["imagePullPolicy"] for each in own} == {"IfNotPresent"}
    assert (ROOT / "Makefile").read_text("utf-8").count("stepwell:kind") == 2, "what is built, and what is loaded"
    assert "HorizontalPodAutoscaler" not in {each["kind"] for each in rendered("overlays/kind")}, "kind has no metrics"


def kind_config() -> dict[str, Any]:
    return dict(yaml.safe_load((ROOT / "kind-config.yaml").read_text("utf-8")))


def test_nothing_comes_in_or_goes_out_unless_it_is_named() -> None:
    policies = {name: each["spec"] for name, each in of(rendered("base"), "NetworkPolicy").items()}
    assert policies["default-deny"] == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}
    entries = {
        (name, port["port"], str(rule["from"][0]["namespaceSelector"]["matchLabels"]) if "from" in rule else "anybody")
        for name, policy in policies.items()
        for rule in policy.get("ingress", ())
        for port in rule["ports"]
    }
    assert entries == {
        ("metrics", 9090, "{'stepwell.dev/monitoring': 'true'}"),
        ("gateway", 8080, "{'stepwell.dev/ingress': 'true'}"),
        ("admission", 9443, "anybody"),
    }
    exits = {port["port"] for rule in policies["services"]["egress"] for port in rule["ports"]}
    assert exits == {53, 443, 6443, 5432, 6432, 6379}


def test_production_names_the_databases_network() -> None:
    """The overlay's patch counts rules: it has to hit the one with the databases' ports, and keep all others."""
    rules = of(rendered("overlays/production"), "NetworkPolicy")["services"]["spec"]["egress"]
    assert [[port["port"] for port in rule["ports"]] for rule in rules] == [[53, 53], [5432, 6432, 6379], [443, 6443]]
    assert [[*to] for to in rules[1]["to"]] == [["ipBlock"]]


@pytest.mark.parametrize("target", ["base", "overlays/production"])
def test_workers_reach_no_metadata_service(target: str) -> None:
    (rule,) = of(rendered(target), "NetworkPolicy")["calls"]["spec"]["egress"]
    blocks = [each["ipBlock"] for each in rule["to"] if "ipBlock" in each]
    refused = [ip_network(each) for block in blocks for each in block["except"]]
    assert [str(each) for each in METADATA if not any(each in network for network in refused)] == []
    assert not any(ip_address("93.184.215.14") in network for network in refused)


# -- autoscalers ----------------------------------------------------------------------------------------------------


def composed(directory: Path, *components: str) -> subprocess.CompletedProcess[str]:
    """The base with components."""
    relative = os.path.relpath(DEPLOY, directory.resolve())
    (directory / "kustomization.yaml").write_text(
        yaml.safe_dump(
            {"resources": [f"{relative}/base"], "components": [f"{relative}/components/{c}" for c in components]}
        )
    )
    return kustomize(directory)


def test_two_autoscalers_exclude_each_other(tmp_path: Path) -> None:
    refused = composed(tmp_path, "hpa", "keda")
    assert refused.returncode == 1
    assert "stepwell-autoscaling" in refused.stderr


def test_the_hpa_scales_the_worker_by_cpu_and_slots(tmp_path: Path) -> None:
    documents = parsed(composed(tmp_path, "hpa", "hpa-slots").stdout)
    (hpa,) = of(documents, "HorizontalPodAutoscaler").values()
    assert hpa["spec"]["scaleTargetRef"]["name"] in of(documents, "Deployment")
    cpu, slots = hpa["spec"]["metrics"]
    assert cpu["containerResource"]["container"] == container("base", "worker")["name"]
    assert slots["pods"]["metric"]["name"] == "stepwell_slots_busy"
    assert hpa["spec"]["minReplicas"] >= 2
    target = float(slots["pods"]["target"]["averageValue"])
    assert target < read({}).worker.slots, "a full worker asks for another"


def test_keda_scales_the_worker_by_what_waits(tmp_path: Path) -> None:
    documents = parsed(composed(tmp_path, "keda").stdout)
    (scaled,) = of(documents, "ScaledObject").values()
    assert scaled["spec"]["scaleTargetRef"]["name"] in of(documents, "Deployment")
    assert scaled["spec"]["minReplicaCount"] >= 2, "a worker leads maintenance and cron"
    (authentication,) = of(documents, "TriggerAuthentication")
    assert {each["authenticationRef"]["name"] for each in scaled["spec"]["triggers"]} == {authentication}
    assert "HorizontalPodAutoscaler" not in {each["kind"] for each in documents}


# -- dist -----------------------------------------------------------------------------------------------------------


def test_dist_renders_one_file() -> None:
    image = "registry.example.com:5000/team/stepwell:1.2.3"
    done = subprocess.run(
        ["make", "-s", "dist", f"IMAGE={image}", f"KUBECTL={manifests.kubectl()}"],
        cwd=ROOT, env=dict(os.environ, MAKEFLAGS=""), capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    text = (ROOT / "build" / "install.yaml").read_text("utf-8")
    version = container("base", "worker")["image"]
    assert text.count(image) == 4
    assert parsed(text.replace(image, version)) == rendered("base")
