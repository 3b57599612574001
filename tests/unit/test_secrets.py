"""Secrets: what shows them, who may use them, and the documents of local mode."""

from __future__ import annotations

import asyncio
import pickle
from typing import Any

import pytest

from stepwell.adapters.secrets.local import LocalSecrets, check_secrets
from stepwell.domain.errors import ManifestError
from stepwell.domain.manifest import load_text
from stepwell.domain.secrets import HOSTS_ANNOTATION, Secret, SecretError, SecretValue, usable_secret

DOCUMENT = """\
apiVersion: v1
kind: Secret
metadata:
  name: api
  namespace: growth
  labels: {stepwell.dev/use: "true"}
  annotations: {stepwell.dev/hosts: api.example.com}
type: Opaque
data:
  token: |
    Y2FuYXJ5
    LTEyMw==
  password: b2xk
stringData:
  password: plain-text
"""


def resolver(text: str = DOCUMENT) -> LocalSecrets:
    return LocalSecrets(load_text(text, "secrets.yaml"))


def refusal(work: Any) -> SecretError:
    with pytest.raises(SecretError) as caught:
        asyncio.run(work)
    return caught.value


def test_a_document_in_kubernetes_form() -> None:
    secret = asyncio.run(usable_secret(resolver(), "growth", "api"))
    assert secret.value("token").reveal() == b"canary-123"
    assert secret.value("password").reveal() == b"plain-text"  # stringData wins
    assert secret.annotations == {"stepwell.dev/hosts": "api.example.com"}


def test_a_value_never_shows_itself() -> None:
    secret = asyncio.run(resolver().get("growth", "api"))
    value = secret.value("token")
    for shown in (repr(secret), str(secret), f"{value}", f"{value!r:>10}", str([value]), str({"a": value})):
        assert "canary" not in shown
    with pytest.raises(TypeError, match="not to be pickled"):
        pickle.dumps(value)


def test_values_are_equal_by_what_they_hold() -> None:
    assert SecretValue(b"a") == SecretValue(b"a")
    assert len({SecretValue(b"a"), SecretValue(b"a"), SecretValue(b"b")}) == 2
    assert SecretValue(b"a") != b"a"


def test_a_missing_secret_says_where_one_of_its_name_is() -> None:
    assert str(refusal(resolver().get("other", "api"))) == "there is no Secret api in namespace other, only in growth"
    missing = refusal(resolver().get("growth", "apis"))
    assert (missing.reason, missing.passing) == ("SecretMissing", False)
    assert "--secrets FILE" in str(missing)


def test_a_missing_key_names_the_others() -> None:
    secret = asyncio.run(resolver().get("growth", "api"))
    with pytest.raises(SecretError) as caught:
        secret.value("tokens")
    assert caught.value.reason == "SecretKeyMissing"
    assert str(caught.value) == "the Secret api has no key tokens; its keys are: password, token"


@pytest.mark.parametrize("label", ["{}", '{stepwell.dev/use: "false"}', '{stepwell.dev/use: "True"}', '{use: "true"}'])
def test_without_the_label_a_secret_is_not_for_workflows(label: str) -> None:
    text = DOCUMENT.replace('{stepwell.dev/use: "true"}', label)
    refused = refusal(usable_secret(resolver(text), "growth", "api"))
    assert refused.reason == "SecretNotLabelled"
    assert "kubectl -n growth label secret api stepwell.dev/use=true" in str(refused)


@pytest.mark.parametrize(
    ("listed", "host", "port", "allowed"),
    [
        (None, "anything.example", 443, True),
        ("api.example.com", "api.example.com", 443, True),
        ("api.example.com", "API.Example.COM.", 8443, True),
        (" a.example , API.example.com. ", "api.example.com", 443, True),
        ("api.example.com:443", "api.example.com", 443, True),
        ("api.example.com:443", "api.example.com", 8443, False),
        ("api.example.com", "xapi.example.com", 443, False),
        ("example.com", "api.example.com", 443, False),
        ("*.example.com", "api.example.com", 443, False),
        ("", "api.example.com", 443, False),
        (",", "", 443, False),
        ("[2001:db8::1]:443", "2001:db8::1", 443, True),
        ("2001:db8::1", "2001:db8::1", 443, True),
    ],
)
def test_the_hosts_that_a_secret_may_be_sent_to(listed: str | None, host: str, port: int, allowed: bool) -> None:
    annotations = {} if listed is None else {HOSTS_ANNOTATION: listed}
    assert Secret("n", "s", {}, {}, annotations).allows(host, port) is allowed


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("b2xk", "'not base64!'", "data.password: is not Base64; write the plain value under stringData instead"),
        ("b2xk", "12345", "data.password: must be a string; quote it"),
        ("plain-text", "12345", "stringData.password: must be a string; quote it"),
        ("stringData:", "stringData: 1\nx:", "stringData: must be a map of strings"),
        ("  token: |", "  to ken: |", "data.to ken: a key holds letters, digits and -._ only"),
        ('"true"', "true", "metadata.labels.stepwell.dev/use: must be"),
        ("plain-text", "x" * 1_048_577, "data: holds more than 1,048,576 bytes"),
    ],
)
def test_documents_that_are_refused(old: str, new: str, said: str) -> None:
    with pytest.raises(ManifestError) as caught:
        resolver(DOCUMENT.replace(old, new))
    (problem,) = caught.value.problems
    assert said in str(problem)
    assert str(problem).startswith("secrets.yaml:")


def test_a_refused_replacement_changes_nothing() -> None:
    secrets = resolver()
    with pytest.raises(ManifestError):
        secrets.replace(load_text(DOCUMENT.replace("b2xk", "'?'"), "x.yaml"))
    assert asyncio.run(secrets.get("growth", "api"))
    secrets.replace(load_text(DOCUMENT.replace("name: api", "name: other"), "x.yaml"))
    assert asyncio.run(secrets.get("growth", "other"))
    assert refusal(secrets.get("growth", "api")).reason == "SecretMissing"


def test_problems_of_many_documents() -> None:
    text = "\n---\n".join(DOCUMENT.replace("b2xk", word) for word in ("'?'", "b2xk", "'!'"))
    assert [problem.line for problem in check_secrets(load_text(text, "s.yaml"))] == [13, 47]
