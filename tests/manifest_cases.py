"""Manifests, good and bad in every way, with the verdict of a real API server (1.36) on each.

`test_loader_differential.py` holds the local loader to the verdicts, and, where an API server is at hand, the verdicts to it.
"""

from __future__ import annotations

from enum import Enum

CALL = "https://x.example/"
ONE = "{name: a, transform: {value: 1}}"
SECRET = "secretRef: {name: s, key: k}"


class Verdict(Enum):
    """Who refuses a manifest first."""

    NOBODY = "it is accepted, and means the same to both"
    SCHEMA = "the API server by itself: schema, CEL rules, strict field names"
    WEBHOOK = "the admission webhook; the API server alone accepts it"
    LOADER = (
        "only the loader, by contract: kubectl or the API server change it on its way, so that nobody behind can tell"
    )


def _document(kind: str, name: str, spec: str, metadata: str = "") -> str:
    more = f", {metadata}" if metadata else ""
    return f"apiVersion: stepwell.dev/v1alpha1\nkind: {kind}\nmetadata: {{name: {name}{more}}}\nspec: {spec}\n"


def _steps(name: str, *steps: str, metadata: str = "", **fields: str) -> str:
    more = "".join(f", {key.rstrip('_')}: {value}" for key, value in fields.items())
    return _document("Workflow", name, f"{{steps: [{', '.join(steps)}]{more}}}", metadata)


def _trigger(trigger: str) -> dict[str, str]:
    return {"triggers": f"[{{name: h, {trigger}}}]"}


def _http(fields: str, more: str = "") -> str:
    return f"{{name: a, httpCall: {{{fields}}}{more}}}"


def _value(value: str) -> str:
    return f"{{name: a, transform: {{value: {value}}}}}"


_HMAC = "webhook: {auth: {hmac: {%s}}}"
_REFS = "secretRefs: [{name: s, key: k}]"
_PUBLIC = "webhook: {auth: {public: {}}%s}"
_NAMES = [f"s{index}" for index in range(200)]

_STEPS: dict[Verdict, dict[str, str | tuple[str, ...]]] = {
    Verdict.NOBODY: {
        "minimal": ONE,
        "dag": ("{name: a, needs: [], wait: {duration: 1s}}", "{name: b, needs: [], wait: {until: '2030-01-01T00:00:00Z'}}",
                "{name: c, needs: [a, b], transform: {value: 1}}"),
        "statuses": _http(f"url: '{CALL}', expect: {{status: [200, 2xx]}}", ", retry: {retryOn: [429, 5xx, Timeout]}"),
        "status-integral-double": _http(f"url: '{CALL}', expect: {{status: [200.0]}}"),
        "url-from-with-auth": _http(f"urlFrom: {{{SECRET}}}, auth: {{bearer: {{{SECRET}}}}}"),
        "auth-in-plain-http": _http("url: 'http://orders.shop.svc/', auth: {basic: {secretName: s}}"),
        "auth-headers": _http(f"url: '{CALL}', auth: {{headers: [{{name: X-Key, prefix: 'Token ', {SECRET}}}]}}"),
        "reshape": "{name: a, transform: {select: [a.b], drop: [c], set: {d: {e: ['{{ 1 }}', null]}}}}",
        "ordinary-nulls": "{name: a, if: null, needs: null, timeout: ~, transform: {value: 1, select: null}}",
        "null-action-beside-another": "{name: a, transform: null, wait: {duration: 1s}}",
        "null-body-beside-text": _http(f"url: '{CALL}', method: POST, body: null, text: x"),
        "doubles": _value("{a: 1.0, b: 2.5, c: 1e3, d: -0.0, e: 1e21, f: 1e-7, g: 100000000000000000000000.0}"),
        "yaml-1-1": _value("{a: on, b: yes, c: 017, d: 1_000, e: 2024-01-01, f: 0x1F, g: 1:30, h: 0o17, i: .5, j: oN, k: Y}"),
        "quoted-words": _value("{'on': 'yes', 'y': \"no\", '1': '2'}"),
        "texts": _value("{a: \"\\u00e9\\n\\t\", b: '', c: '  x ', d: 'a: b', e: \"\\U0001F600\"}"),
        "name-of-63": "{name: a" + "b" * 62 + ", transform: {value: 1}}",
        "two-hundred": tuple(f"{{name: {name}, transform: {{value: 1}}}}" for name in _NAMES),
        "two-hundred-with-needs": tuple(
            f"{{name: {name}, needs: [{', '.join(_NAMES[max(0, at - 16) : at])}], transform: {{value: 1}}}}"
            for at, name in enumerate(_NAMES)
        ),
        "approval": "{name: a, approval: {message: 'Deploy?', timeout: 2h, onTimeout: Approve}}",
        "longest-wait": "{name: a, wait: {duration: 8760h}}",
        "for-each": "{name: a, forEach: {items: [1, 2], maxParallel: 50}, transform: {value: '{{ item }}'}}",
        "child": "{name: a, workflow: {name: other, input: {a: 1}, mode: Start}}",
    },
    Verdict.SCHEMA: {
        "unknown-field": "{name: a, transfrom: {value: 1}, transform: {value: 1}}",
        "unknown-field-deep": _http(f"url: '{CALL}', expect: {{staus: [200]}}"),
        "two-actions": "{name: a, transform: {value: 1}, wait: {duration: 1s}}",
        "no-action": "{name: a}",
        "no-name": "{transform: {value: 1}}",
        "null-name": "{name: null, transform: {value: 1}}",
        "null-step": ("null", ONE),
        "text-step": ("text", ONE),
        "empty-transform": "{name: a, transform: {}}",
        "null-transform": "{name: a, transform: {value: null}}",
        "same-name": (ONE, ONE),
        "unknown-need": (ONE, "{name: b, needs: [zz], transform: {value: 1}}"),
        "null-need": (ONE, "{name: b, needs: [null], transform: {value: 1}}"),
        "seventeen-needs": f"{{name: a, needs: [{', '.join(['a'] * 17)}], transform: {{value: 1}}}}",
        "value-and-select": "{name: a, transform: {value: 1, select: [x]}}",
        "body-and-text": _http(f"url: '{CALL}', body: {{}}, text: x"),
        "url-and-url-from": _http(f"url: '{CALL}', urlFrom: {{{SECRET}}}"),
        "no-url": _http("method: GET"),
        "lower-case-method": _http(f"url: '{CALL}', method: get"),
        "auth-to-a-template": _http(f"url: 'https://{{{{ h }}}}/', auth: {{bearer: {{{SECRET}}}}}"),
        "auth-to-half-a-template": _http(f"url: 'https://x.example{{{{ h }}}}', auth: {{bearer: {{{SECRET}}}}}"),
        "auth-behind-a-user": _http(f"url: 'https://x.example@evil.example/', auth: {{bearer: {{{SECRET}}}}}"),
        "auth-behind-a-backslash": _http(f"url: 'https://x.example\\@evil.example/', auth: {{bearer: {{{SECRET}}}}}"),
        "auth-to-a-template-port": _http(f"url: 'https://x.example:{{{{ p }}}}/', auth: {{bearer: {{{SECRET}}}}}"),
        "auth-in-capitals": _http(f"url: 'HTTPS://x.example/', auth: {{bearer: {{{SECRET}}}}}"),
        "auth-with-a-line-break": _http(f'url: "https://x.example\\n", auth: {{bearer: {{{SECRET}}}}}'),
        "two-auths": _http(f"url: '{CALL}', auth: {{basic: {{secretName: s}}, bearer: {{{SECRET}}}}}"),
        "no-auth": _http(f"url: '{CALL}', auth: {{}}"),
        "secret-of-another-namespace": _http(f"url: '{CALL}', auth: {{bearer: {{secretRef: {{name: s, key: k, namespace: x}}}}}}"),
        "secret-name-in-capitals": _http(f"url: '{CALL}', auth: {{basic: {{secretName: Abc}}}}"),
        "header-of-a-number": _http(f"url: '{CALL}', headers: {{x: 1}}"),
        "header-of-a-boolean-word": _http(f"url: '{CALL}', headers: {{x: on}}"),
        "status-too-low": _http(f"url: '{CALL}', expect: {{status: [99]}}"),
        "status-too-high": _http(f"url: '{CALL}', expect: {{status: [600]}}"),
        "status-class-too-high": _http(f"url: '{CALL}', expect: {{status: [6xx]}}"),
        "status-as-text": _http(f"url: '{CALL}', expect: {{status: ['204']}}"),
        "status-with-a-fraction": _http(f"url: '{CALL}', expect: {{status: [200.5]}}"),
        "status-boolean": _http(f"url: '{CALL}', expect: {{status: [true]}}"),
        "empty-retry-on": _http(f"url: '{CALL}'", ", retry: {retryOn: []}"),
        "step-timeout-zero": _http(f"url: '{CALL}'", ", timeout: 0s"),
        "step-timeout-too-long": _http(f"url: '{CALL}'", ", timeout: 9000h"),
        "step-timeout-no-unit": _http(f"url: '{CALL}'", ", timeout: 5"),
        "timeout-of-a-transform": "{name: a, transform: {value: 1}, timeout: 10s}",
        "wait-zero": "{name: a, wait: {duration: 0s}}",
        "wait-too-long": "{name: a, wait: {duration: 99999h}}",
        "wait-for-both": "{name: a, wait: {duration: 1s, until: '2030-01-01T00:00:00Z'}}",
        "wait-for-nothing": "{name: a, wait: {}}",
        "approval-timeout-zero": "{name: a, approval: {timeout: 0s}}",
        "step-backoff-zero": "{name: a, wait: {duration: 1s}, retry: {backoff: {initial: 0s}}}",
        "step-backoff-too-long": "{name: a, wait: {duration: 1s}, retry: {backoff: {max: 8761h}}}",
        "factor-too-small": "{name: a, wait: {duration: 1s}, retry: {backoff: {factor: 0.5}}}",
        "factor-as-text": "{name: a, wait: {duration: 1s}, retry: {backoff: {factor: '2'}}}",
        "name-is-a-word": "{name: in, transform: {value: 1}}",
        "name-is-a-boolean": "{name: on, transform: {value: 1}}",
        "name-is-a-quoted-boolean": "{name: 'true', transform: {value: 1}}",
        "name-in-capitals": "{name: Abc, transform: {value: 1}}",
        "name-with-a-dash": "{name: a-b, transform: {value: 1}}",
        "name-with-a-line-break": '{name: "a\\n", transform: {value: 1}}',
        "name-of-64": "{name: a" + "b" * 63 + ", transform: {value: 1}}",
        "too-many-steps": tuple(f"{{name: s{at}, transform: {{value: 1}}}}" for at in range(201)),
        "too-many-in-parallel": "{name: a, forEach: {items: [1], maxParallel: 51}, transform: {value: 1}}",
        "no-steps": (),
    },
    Verdict.WEBHOOK: {
        "needs-itself": "{name: a, needs: [a], transform: {value: 1}}",
        "cycle": ("{name: a, needs: [b], transform: {value: 1}}", "{name: b, needs: [a], transform: {value: 1}}"),
        "need-named-twice": (ONE, "{name: b, needs: [a, a], transform: {value: 1}}"),
        "broken-expression": "{name: a, if: '1 +', transform: {value: 1}}",
        "unknown-step": _value("'{{ steps.zz.output }}'"),
        "open-template": _value("'{{ 1 '"),
        "null-in-a-template": _value("{x: null}"),
        "null-in-a-list-of-a-template": _value("[{x: ~}]"),
        "integer-beyond-2-53": _value("9007199254740993"),
        "integer-beyond-64-bits": _value("12345678901234567890"),
        "integer-as-a-double": _value("1e18"),
        "nul-character": _value('"a\\0b"'),
        "spec-too-large": _value("x" * 210_000),
        "unknown-plug-in": "{name: a, action: {type: nobody.made.it}}",
    },
    Verdict.LOADER: {
        "key-that-is-a-number": _value("{1: x}"),
        "key-that-is-a-boolean": _value("{on: x}"),
        "key-that-stands-twice": _value("{a: 1, a: 2}"),
        "null-in-set": "{name: a, transform: {set: {x: null}}}",
        "null-header": _http(f"url: '{CALL}', headers: {{x: null}}"),
    },
}  # fmt: skip

_SPECS: dict[Verdict, dict[str, dict[str, str]]] = {
    Verdict.NOBODY: {
        "all-fields": {
            "timeout": "1h30m", "priority": "High", "suspend": "true", "output": "{x: '{{ 1 }}'}", "description": "'words'",
            "retry": "{limit: 2.0, backoff: {initial: 250ms, factor: 1.5, max: 2m, jitter: None}, retryOn: [Network]}",
            "retention": "{succeeded: 1h}",
        },
        "null-fields": {"timeout": "null", "priority": "~", "retention": "", "retry": "null", "triggers": "null"},
        "empty-maps": {"retry": "{}", "retention": "{}"},
        "duration-of-a-year": {"timeout": "8760h"},
        "duration-with-a-unit-twice": {"timeout": "1h1h"},
        "duration-out-of-order": {"timeout": "1ms1h"},
        "public-hook": _trigger(_PUBLIC % ", respond: {wait: 10s}, rateLimit: {limit: 10, per: 1m}"),
        "hook-with-filter": _trigger(
            _HMAC % f"preset: Stripe, tolerance: 1m, {_REFS}" + ", if: \"body.type == 'x'\", input: {a: '{{ body.b }}'}"
        ),
        "own-hmac": _trigger(_HMAC % f"header: X-Sig, algorithm: SHA512, encoding: Base64, prefix: v1, {_REFS}"),
        "cron": _trigger("cron: {schedule: '0 3 * * *', timeZone: Europe/Berlin, missedRuns: All, jitter: 10s}"),
        "input-schema": {"inputSchema": "{type: object, required: [a], properties: {a: {type: integer, default: 5}}}"},
        "concurrency": {"concurrency": "{limit: 1, onLimit: Skip}"},
        "handlers": {"onFailure": "[{name: b, fail: {message: x}}]", "finally": "[{name: c, transform: {value: 1}}]"},
    },
    Verdict.SCHEMA: {
        "unknown-spec-field": {"triger": "[]"},
        "duration-without-unit": {"timeout": "'10'"},
        "duration-number": {"timeout": "10"},
        "duration-in-days": {"timeout": "1d"},
        "duration-zero": {"timeout": "0s"},
        "duration-too-long": {"timeout": "8761h"},
        "duration-a-little-too-long": {"timeout": "8760h1ms"},
        "duration-fraction": {"timeout": "1.5h"},
        "duration-line-break": {"timeout": '"1h\\n"'},
        "duration-with-spaces": {"timeout": "' 1h'"},
        "backoff-zero": {"retry": "{backoff: {initial: 0s}}"},
        "retention-zero": {"retention": "{failed: 0s}"},
        "limit-too-high": {"retry": "{limit: 101}"},
        "limit-with-a-fraction": {"retry": "{limit: 1.5}"},
        "concurrency-as-text": {"concurrency": "{limit: '1'}"},
        "concurrency-zero": {"concurrency": "{limit: 0}"},
        "concurrency-null": {"concurrency": "{limit: null}"},
        "boolean-as-text": {"suspend": "'true'"},
        "priority-in-lower-case": {"priority": "high"},
        "description-too-long": {"description": "x" * 1025},
        "same-name-in-on-failure": {"onFailure": f"[{ONE}]"},
        "same-name-in-both": {
            "onFailure": "[{name: b, transform: {value: 1}}]", "finally": "[{name: b, transform: {value: 1}}]",
        },
        "two-kinds-of-trigger": _trigger("cron: {schedule: '0 3 * * *'}, webhook: {auth: {public: {}}}"),
        "no-kind-of-trigger": {"triggers": "[{name: h}]"},
        "same-trigger": {"triggers": "[{name: h, cron: {schedule: '0 3 * * *'}}, {name: h, cron: {schedule: '0 4 * * *'}}]"},
        "trigger-name-with-underscore": {"triggers": "[{name: h_h, cron: {schedule: '0 3 * * *'}}]"},
        "hook-without-auth": _trigger("webhook: {}"),
        "hook-with-two-auths": _trigger("webhook: {auth: {public: {}, basic: {secretName: s}}}"),
        "preset-and-header": _trigger(_HMAC % f"preset: GitHub, header: X, {_REFS}"),
        "no-preset-no-header": _trigger(_HMAC % _REFS),
        "five-secrets": _trigger(_HMAC % f"preset: GitHub, secretRefs: [{', '.join(['{name: s, key: k}'] * 5)}]"),
        "unknown-preset": _trigger(_HMAC % f"preset: Github, {_REFS}"),
        "respond-zero": _trigger(_PUBLIC % ", respond: {wait: 0s}"),
        "rate-limit-zero": _trigger(_PUBLIC % ", rateLimit: {limit: 1, per: 0s}"),
        "tolerance-too-long": _trigger(_HMAC % f"preset: GitHub, tolerance: 9999h, {_REFS}"),
        "jitter-zero": _trigger("cron: {schedule: '0 3 * * *', jitter: 0s}"),
        "deadline-zero": _trigger("cron: {schedule: '0 3 * * *', startingDeadline: 0ms}"),
        "schedule-too-short": _trigger("cron: {schedule: '@daily'}"),
        "input-schema-is-a-list": {"inputSchema": "[]"},
    },
    Verdict.WEBHOOK: {
        "schedule-of-words": _trigger("cron: {schedule: 'every day x'}"),
        "no-such-zone": _trigger("cron: {schedule: '0 3 * * *', timeZone: Mars/One}"),
        "no-such-type": {"inputSchema": "{type: objekt}"},
        "schema-from-elsewhere": {"inputSchema": "{$ref: 'https://x.example/s'}"},
        "null-in-a-schema": {"inputSchema": "{properties: {a: null}}"},
        "unknown-need-in-finally": {"finally": "[{name: b, needs: [zz], transform: {value: 1}}]"},
        "need-of-a-step-in-on-failure": {"onFailure": "[{name: b, needs: [a], transform: {value: 1}}]"},
        "input-is-a-list": _trigger("cron: {schedule: '0 3 * * *'}, input: [1]"),
        "unknown-variable-in-a-trigger": _trigger("cron: {schedule: '0 3 * * *'}, if: 'body.x'"),
    },
}  # fmt: skip

_RUNS: dict[Verdict, dict[str, str]] = {
    Verdict.NOBODY: {
        "run": "{workflowRef: {name: w}, input: {a: 1, b: {c: [true, 2.0]}}, ttlAfterFinished: 1h, priority: Low}",
        "run-cancelled-at-once": "{workflowRef: {name: w}, cancel: true}",
        "run-with-null-fields": "{workflowRef: {name: w}, input: null, priority: null}",
    },
    Verdict.SCHEMA: {
        "run-of-nothing": "{input: {a: 1}}",
        "run-with-a-list": "{workflowRef: {name: w}, input: [1]}",
        "run-ttl-zero": "{workflowRef: {name: w}, ttlAfterFinished: 0s}",
        "run-ttl-number": "{workflowRef: {name: w}, ttlAfterFinished: 60}",
        "run-elsewhere": "{workflowRef: {name: w, namespace: x}}",
        "run-of-capitals": "{workflowRef: {name: W}}",
        "run-urgent": "{workflowRef: {name: w}, priority: Urgent}",
    },
    Verdict.WEBHOOK: {
        "run-with-a-null": "{workflowRef: {name: w}, input: {a: null}}",
        "run-with-a-large-input": "{workflowRef: {name: w}, input: {a: " + "x" * 66_000 + "}}",
        "run-with-a-large-integer": "{workflowRef: {name: w}, input: {a: 9007199254740993}}",
    },
}

_META: dict[Verdict, dict[str, str]] = {
    Verdict.NOBODY: {
        "labels": "labels: {a: '', example.com/b: V_1.x}, annotations: {Example.com/Note: 'any text'}",
        "metadata-of-the-server": "uid: u-1, creationTimestamp: null, generation: 4, finalizers: [example.com/x]",
    },
    Verdict.SCHEMA: {
        "label-with-a-space": "labels: {a: 'x y'}",
        "label-number": "labels: {a: 1}",
        "label-key-with-a-space": "labels: {'a b': x}",
        "label-key-with-two-slashes": "labels: {a/b/c: x}",
        "label-key-in-capitals": "labels: {Example.com/a: x}",
        "label-too-long": "labels: {a: " + "x" * 64 + "}",
        "annotation-key-with-a-space": "annotations: {'a b': x}",
        "annotations-too-large": "annotations: {a: " + "x" * 262_144 + "}",
        "unknown-metadata": "foo: x",
    },
    Verdict.LOADER: {"label-null": "labels: {a: null}"},
}

_GOOD = f"{{steps: [{ONE}]}}"
_WHOLE: dict[Verdict, dict[str, str]] = {
    Verdict.NOBODY: {
        "status-in-a-manifest": _document("Workflow", "status-in-a-manifest", _GOOD)
        + "status: {revision: x, conditions: [{type: Ready}]}\n",
        "generated-name": _document("WorkflowRun", "x", "{workflowRef: {name: w}}").replace(
            "name: x", "generateName: generated-name-", 1
        ),
        "json": '{"apiVersion": "stepwell.dev/v1alpha1", "kind": "Workflow", "metadata": {"name": "json"}, '
        '"spec": {"steps": [{"name": "a", "transform": {"value": {"on": 1.0, "e": "\\u00e9"}}}]}}',
    },
    Verdict.SCHEMA: {
        "unknown-status": _document("Workflow", "unknown-status", _GOOD) + "status: {foo: 1}\n",
        "unknown-status-of-a-run": _document("WorkflowRun", "unknown-status-of-a-run", "{workflowRef: {name: w}}")
        + "status: {steps: [{name: a, foo: 1}]}\n",
        "other-version": _document("Workflow", "other-version", _GOOD).replace("v1alpha1", "v1"),
        "other-kind": _document("Workfow", "other-kind", _GOOD),
        "no-spec": "apiVersion: stepwell.dev/v1alpha1\nkind: Workflow\nmetadata: {name: no-spec}\n",
        "null-spec": _document("Workflow", "null-spec", "null"),
        "spec-is-a-list": _document("Workflow", "spec-is-a-list", "[]"),
        "top-field": _document("Workflow", "top-field", _GOOD) + "extra: 1\n",
        "no-metadata-name": _document("Workflow", "x", _GOOD).replace("name: x", "labels: {}", 1),
        "name-with-capitals": _document("Workflow", "Name_x", _GOOD),
        "name-too-long": _document("Workflow", "n" * 254, _GOOD),
    },
}


def cases() -> dict[str, tuple[Verdict, str]]:
    """Every manifest by its name, which is also its object's, with its verdict."""
    found: dict[str, tuple[Verdict, str]] = {}
    for verdict in Verdict:
        for name, steps in _STEPS.get(verdict, {}).items():
            found[name] = verdict, _steps(name, *([steps] if isinstance(steps, str) else steps))
        for name, fields in _SPECS.get(verdict, {}).items():
            found[name] = verdict, _steps(name, ONE, **fields)
        for name, spec in _RUNS.get(verdict, {}).items():
            found[name] = verdict, _document("WorkflowRun", name, spec)
        for name, metadata in _META.get(verdict, {}).items():
            found[name] = verdict, _steps(name, ONE, metadata=metadata)
        for name, text in _WHOLE.get(verdict, {}).items():
            found[name] = verdict, text
    return found
