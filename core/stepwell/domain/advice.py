"""What is allowed and yet worth a word to whoever applies it: credentials in plain sight, doors without a lock,
and what is written and does nothing.

A warning names the place, never the value. It is short: API servers cut warnings after 120 characters or so.
"""

from __future__ import annotations

import re
from functools import lru_cache
from importlib.resources import files
from typing import TYPE_CHECKING

from stepwell.domain.errors import Problem

if TYPE_CHECKING:
    from collections.abc import Iterator

    from stepwell.domain.documents import JsonValue
    from stepwell.domain.http_spec import HttpCall
    from stepwell.domain.spec import WorkflowSpec
    from stepwell.domain.steps import Step
    from stepwell.domain.triggers import Hmac, Trigger

MOST = 20  #: warnings on one object
API = "api"  # the trigger of runs that are started over the API

_OF_HEADER = {
    "algorithm": "algorithm",
    "encoding": "encoding",
    "prefix": "prefix",
    "timestamp_header": "timestampHeader",
}

_HEADERS = re.compile(
    r"authorization|proxy-authorization|cookie|.*(api|access|auth)[-_]?(key|token).*|x-.*secret.*", re.IGNORECASE
)
_FIELDS = re.compile(r"(.*[-_])?(password|passwd|secret|token|api[-_]?key|access[-_]?key|private[-_]?key)|"
                     r".*(Password|Secret|Token|ApiKey|AccessKey|PrivateKey)")  # fmt: skip
_QUERY = re.compile(
    r"[?&](?:access_token|api[-_]?key|apikey|key|password|secret|sig|signature|token)=(?!\{\{)[^&#]", re.IGNORECASE
)
_USER = re.compile(r"https?://[^/?#\s:@]*:[^/?#\s@]*@")
_TOKEN = re.compile(
    r"\b(gh[pousr]_[A-Za-z0-9]{20}|github_pat_[A-Za-z0-9_]{20}|glpat-[A-Za-z0-9_-]{16}|xox[abprs]-[A-Za-z0-9-]{10}"
    r"|[sr]k_live_[A-Za-z0-9]{10}|AKIA[A-Z0-9]{16}\b|AIza[A-Za-z0-9_-]{30}|eyJ[A-Za-z0-9_-]{10,300}\.eyJ[A-Za-z0-9_-]{10})"
    r"|-----BEGIN [A-Z ]*PRIVATE KEY-----|https://hooks\.slack\.com/services/T"
)
_SECRET = "move it into a Secret"  # noqa: S105 - advice, no password


def advice(spec: WorkflowSpec) -> list[Problem]:
    """The warnings on a sound spec, by their places, at most `MOST`."""
    found = dict.fromkeys(_all(spec))
    return list(found)[:MOST]


def _all(spec: WorkflowSpec) -> Iterator[Problem]:
    for index, trigger in enumerate(spec.triggers):
        yield from _trigger(trigger, f"spec.triggers[{index}]")
    for word, steps in (("steps", spec.steps), ("onFailure", spec.on_failure), ("finally", spec.finally_)):
        for index, step in enumerate(steps):
            yield from _step(step, f"spec.{word}[{index}]")
    yield from _values(spec.output, "spec.output")


def _trigger(trigger: Trigger, path: str) -> Iterator[Problem]:
    if trigger.name == API:
        yield Problem(f"{path}.name", "shares its idempotency keys with runs started over the API; choose another")
    auth = trigger.webhook.auth if trigger.webhook is not None else None
    if auth is not None and auth.public is not None:
        yield Problem(f"{path}.webhook.auth.public", "anybody who can reach the address may start runs")
    if auth is not None and auth.hmac is not None:
        yield from _hmac(auth.hmac, f"{path}.webhook.auth.hmac")
    if trigger.cron is not None and trigger.cron.time_zone not in _zones():
        yield Problem(f"{path}.cron.timeZone", "is no IANA name: what it means depends on the machine")
    yield from _values(trigger.input, f"{path}.input")


def _hmac(hmac: Hmac, path: str) -> Iterator[Problem]:
    """What is written, and does nothing."""
    if hmac.preset is not None:
        for name, said in _OF_HEADER.items():
            if name in hmac.model_fields_set:
                yield Problem(f"{path}.{said}", f"has no effect: the preset {hmac.preset} says how it signs")
    dated = hmac.preset not in {None, "GitHub"} or (hmac.preset is None and hmac.timestamp_header is not None)
    if "tolerance" in hmac.model_fields_set and not dated:
        yield Problem(f"{path}.tolerance", "has no effect: nothing that is signed says when a delivery was sent")


@lru_cache(maxsize=1)
def _zones() -> frozenset[str]:
    """The names of the IANA database; a machine's own files have others, such as localtime."""
    return frozenset(files("tzdata").joinpath("zones").read_text("ascii").split())


def _step(step: Step, path: str) -> Iterator[Problem]:
    if step.for_each is not None:
        yield from _values(step.for_each.items, f"{path}.forEach.items")
    if step.http_call is not None:
        yield from _http(step.http_call, f"{path}.httpCall")
    if step.transform is not None:
        yield from _values(step.transform.set, f"{path}.transform.set")
        yield from _values(step.transform.value, f"{path}.transform.value")
    if step.workflow is not None:
        yield from _values(step.workflow.input, f"{path}.workflow.input")
    if step.action is not None:
        yield from _values(step.action.with_, f"{path}.action.with")


def _http(call: HttpCall, path: str) -> Iterator[Problem]:
    url = call.url or ""
    if _USER.match(url):
        yield Problem(f"{path}.url", f"has a password in it; {_SECRET} and use auth.basic")
    elif _QUERY.search(url) or _TOKEN.search(url):
        yield Problem(f"{path}.url", f"seems to hold a credential; {_SECRET} and use auth.query or urlFrom")
    if url.startswith("http://") and call.auth is not None:
        yield Problem(
            f"{path}.url", "sends a credential in plain http; works only to hosts that the namespace is allowed"
        )
    for name, text in (call.headers or {}).items():
        if (_HEADERS.fullmatch(name) and _literal(text)) or _TOKEN.search(text):
            yield Problem(f"{path}.headers.{name}", f"seems to hold a credential; {_SECRET} and use auth.headers")
    for name, text in (call.query or {}).items():
        if (_FIELDS.fullmatch(name) and _literal(text)) or _TOKEN.search(text):
            yield Problem(f"{path}.query.{name}", f"seems to hold a credential; {_SECRET} and use auth.query")
    yield from _values(call.body, f"{path}.body")
    if call.text is not None and _TOKEN.search(call.text):
        yield Problem(f"{path}.text", "seems to hold a credential; everybody who may read the Workflow sees it")


def _values(value: JsonValue, path: str) -> Iterator[Problem]:
    if isinstance(value, dict):
        for key, child in value.items():
            named = isinstance(child, str) and _FIELDS.fullmatch(key) and _literal(child)
            if named:
                yield Problem(f"{path}.{key}", _VISIBLE)
            else:
                yield from _values(child, f"{path}.{key}")
    elif isinstance(value, list):
        for index, child in enumerate(value):
            yield from _values(child, f"{path}[{index}]")
    elif isinstance(value, str) and _TOKEN.search(value):
        yield Problem(path, _VISIBLE)


_VISIBLE = "seems to hold a credential; everybody who may read the Workflow or its runs sees it"


def _literal(text: str) -> bool:
    return len(text.strip()) >= 4 and "{{" not in text
