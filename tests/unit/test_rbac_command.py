"""`stepwell rbac`: every Secret that a manifest names, for whom it is, and nothing else."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import yaml
from commands import within

if TYPE_CHECKING:
    from pathlib import Path

EVERYWHERE = """\
apiVersion: stepwell.dev/v1alpha1
kind: Workflow
metadata: {name: all, namespace: growth}
spec:
  triggers:
    - {name: a, webhook: {auth: {hmac: {preset: GitHub, secretRefs: [{name: h1, key: k}, {name: h2, key: k}]}}}}
    - {name: b, webhook: {auth: {bearer: {secretRef: {name: h3, key: k}}}}}
    - {name: c, webhook: {auth: {basic: {secretName: h4}}}}
    - {name: d, webhook: {auth: {public: {}}}}
  steps:
    - {name: a, httpCall: {url: https://x.example, auth: {bearer: {secretRef: {name: s1, key: k}}}}}
    - {name: b, httpCall: {url: https://x.example, auth: {basic: {secretName: s2}}}}
    - {name: c, httpCall: {url: https://x.example, auth: {headers: [{name: X, secretRef: {name: s3, key: k}}]}}}
    - {name: d, httpCall: {url: https://x.example, auth: {query: [{name: x, secretRef: {name: s4, key: k}}]}}}
    - {name: e, httpCall: {urlFrom: {secretRef: {name: s5, key: k}}}}
    - {name: f, httpCall: {url: https://x.example, tls: {caSecretRef: {name: s6, key: k}}}}
    - {name: g, httpCall: {url: https://x.example, auth: {bearer: {secretRef: {name: s1, key: other}}}}}
    - {name: h, transform: {value: {secretRef: {name: none, key: k}}}}
"""
PLAIN = """\
apiVersion: stepwell.dev/v1alpha1
kind: Workflow
metadata: {name: NAME}
spec: {steps: [{name: a, httpCall: {url: https://x.example, auth: {basic: {secretName: SECRET}}}}]}
"""


def printed(*arguments: str | Path) -> list[dict[str, Any]]:
    done = within("rbac", *arguments)
    assert done.returncode == 0, done.stderr
    as_json = json.loads(within("rbac", "--json", *arguments).stdout)
    assert as_json["items"] == list(yaml.safe_load_all(done.stdout) if done.stdout else ())
    found: list[dict[str, Any]] = as_json["items"]
    return found


def given(objects: list[dict[str, Any]]) -> dict[str, list[str]]:
    """The Secrets by ``namespace/role``; ``-`` for no namespace."""
    roles = [each for each in objects if each["kind"] == "Role"]
    for each in roles:
        (rule,) = each["rules"]
        assert (rule["apiGroups"], rule["resources"], rule["verbs"]) == ([""], ["secrets"], ["get"])
    return {
        f"{each['metadata'].get('namespace', '-')}/{each['metadata']['name']}": each["rules"][0]["resourceNames"]
        for each in roles
    }


def subjects(objects: list[dict[str, Any]]) -> dict[str, str]:
    found = {}
    for each in objects:
        if each["kind"] == "RoleBinding":
            (subject,) = each["subjects"]
            assert each["roleRef"]["name"] == each["metadata"]["name"]
            found[each["metadata"]["name"]] = f"{subject['namespace']}/{subject['name']}"
    return found


def test_every_place_of_a_secret_is_found(tmp_path: Path) -> None:
    file = tmp_path / "w.yaml"
    file.write_text(EVERYWHERE)
    found = printed(file)
    assert given(found) == {
        "growth/stepwell-worker-secrets": ["s1", "s2", "s3", "s4", "s5", "s6"],
        "growth/stepwell-gateway-secrets": ["h1", "h2", "h3", "h4"],
    }
    assert subjects(found) == {
        "stepwell-worker-secrets": "stepwell-system/stepwell-worker",
        "stepwell-gateway-secrets": "stepwell-system/stepwell-gateway",
    }


def test_namespaces_stay_apart_and_options_name_others(tmp_path: Path) -> None:
    one, two, three = (tmp_path / name for name in ("one.yaml", "two.yaml", "three.yaml"))
    one.write_text(PLAIN.replace("NAME", "one").replace("SECRET", "a"))
    two.write_text(PLAIN.replace("NAME", "two").replace("SECRET", "b"))
    three.write_text(PLAIN.replace("{name: NAME}", "{name: three, namespace: shop}").replace("SECRET", "c"))
    assert given(printed(one, two, three)) == {
        "-/stepwell-worker-secrets": ["a", "b"],
        "shop/stepwell-worker-secrets": ["c"],
    }
    named = printed(one, three, "-n", "growth", "--prefix", "mine", "--worker", "ours/runner")
    assert given(named) == {"growth/mine-worker-secrets": ["a"], "shop/mine-worker-secrets": ["c"]}
    assert set(subjects(named).values()) == {"ours/runner"}
    assert set(subjects(printed(one, "--accounts", "other")).values()) == {"other/stepwell-worker"}


def test_nothing_is_printed_where_nothing_is_needed(tmp_path: Path) -> None:
    file = tmp_path / "w.yaml"
    file.write_text("apiVersion: stepwell.dev/v1alpha1\nkind: Workflow\nmetadata: {name: w}\nspec: {steps: [{name: a, "
                    "transform: {value: 1}}]}\n")  # fmt: skip
    assert printed(file) == []
    assert "nothing is needed" in within("rbac", file).stderr


def test_a_manifest_that_is_wrong_gives_no_role(tmp_path: Path) -> None:
    file = tmp_path / "w.yaml"
    file.write_text(EVERYWHERE.replace("transform", "transfrom"))
    done = within("rbac", file)
    assert (done.returncode, done.stdout) == (2, "")
    assert f"{file}:18: spec.steps[7].transfrom: unknown field" in done.stderr
    file.write_text("")
    assert within("rbac", file).returncode == 2
