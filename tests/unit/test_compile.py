"""A spec becomes a revision, or every problem is named with its path."""

from typing import Any

import pytest

from stepwell.actions.registry import default_actions
from stepwell.domain.compile import compile_revision, revision_hash
from stepwell.domain.errors import ManifestError
from stepwell.domain.manifest import load_text
from stepwell.domain.retry import NEVER
from stepwell.domain.revision import Revision
from stepwell.domain.spec import WorkflowSpec
from stepwell.domain.support import NOT_YET, language_features
from stepwell.domain.validation import validate_documents

ACTIONS = default_actions()
URL = "https://example.com/"


def compiled(spec: dict[str, Any]) -> Revision:
    return compile_revision(WorkflowSpec.model_validate(spec), ACTIONS)


def refusals(spec: dict[str, Any]) -> list[str]:
    with pytest.raises(ManifestError) as caught:
        compiled(spec)
    return [str(problem) for problem in caught.value.problems]


def value(name: str, template: Any = 1, **fields: Any) -> dict[str, Any]:
    return {"name": name, "transform": {"value": template}, **fields}


def call(name: str, **fields: Any) -> dict[str, Any]:
    return {"name": name, "httpCall": {"url": URL, **fields.pop("http", {})}, **fields}


# -- order --------------------------------------------------------------------------------------------------------------


def test_without_needs_steps_form_a_chain() -> None:
    steps = compiled({"steps": [value("a"), value("b"), value("c")]}).steps
    assert [(step.index, step.needs, step.direct, step.ancestors) for step in steps] == [
        (0, (), 0, 0b000),
        (1, (0,), 0b001, 0b001),
        (2, (1,), 0b010, 0b011),
    ]


def test_needs_make_a_graph() -> None:
    revision = compiled(
        {"steps": [value("a"), value("b", needs=[]), value("c", needs=["b", "a"]), value("d", needs=["c"])]}
    )
    assert [step.needs for step in revision.steps] == [(), (), (1, 0), (2,)]
    assert [step.ancestors for step in revision.steps] == [0, 0, 0b011, 0b111]
    assert revision.all == 0b1111


def test_a_step_may_need_one_that_stands_below_it() -> None:
    assert [step.needs for step in compiled({"steps": [value("a", needs=["b"]), value("b", needs=[])]}).steps] == [
        (1,),
        (),
    ]


@pytest.mark.parametrize(
    ("steps", "problem"),
    [
        ([value("a"), value("b", needs=["c"]), value("c", needs=["b"])], "spec.steps[1].needs: the steps wait for each other in a circle: b → c → b"),
        ([value("a", needs=["a"])], "spec.steps[0].needs: the steps wait for each other in a circle: a → a"),
        ([value("a", needs=["b"]), value("b")], "spec.steps[0].needs: the steps wait for each other in a circle: a → b → a"),
        ([value("pick"), value("b", needs=["pik"])], "spec.steps[1].needs[0]: there is no step 'pik'; did you mean pick?"),
        ([value("a"), value("b", needs=["a", "a"])], "spec.steps[1].needs[1]: 'a' is named twice"),
        ([value("a"), value("a")], "spec.steps[1].name: the name 'a' is taken by spec.steps[0]; choose another"),
    ],
)  # fmt: skip
def test_needs_that_are_refused(steps: list[Any], problem: str) -> None:
    assert refusals({"steps": steps}) == [problem]


def test_names_are_unique_over_all_lists() -> None:
    found = refusals({"steps": [value("a")], "finally": [value("a")]})
    assert "spec.finally[0].name: the name 'a' is taken by spec.steps[0]; choose another" in found


# -- expressions --------------------------------------------------------------------------------------------------------


def test_variables_are_recorded_for_the_engine() -> None:
    steps = [
        value("a"),
        value("b", "{{ steps.a.output }}", **{"if": "run.id != ''"}),
        value("c", "{{ total }}"),
        value("d"),
    ]
    assert [set(step.variables) for step in compiled({"steps": steps}).steps] == [
        set(),
        {"steps", "run"},
        {"input"},
        set(),
    ]


@pytest.mark.parametrize(
    ("template", "place"),
    [
        ("{{ steps.c.output }}", "spec.steps[1].transform.value"),  # comes later
        ("{{ steps.nowhere.output }}", "spec.steps[1].transform.value"),
        ({"x": ["{{ 1 + }}"]}, "spec.steps[1].transform.value.x[0]"),
        ("{{ body.x }}", None),  # a bare name: input.body
        ("{{ nofunction(1) }}", "spec.steps[1].transform.value"),
        ("{{ open", "spec.steps[1].transform.value"),
    ],
)
def test_expressions_are_checked_at_apply(template: Any, place: str | None) -> None:
    spec = {"steps": [value("a"), value("b", template), value("c")]}
    if place is None:
        compiled(spec)
    else:
        (problem,) = refusals(spec)
        assert problem.startswith(f"{place}: ")


def test_only_transitive_predecessors_may_be_read() -> None:
    spec = {"steps": [value("a"), value("b", needs=[]), value("c", "{{ steps.a.output }}", needs=["b"])]}
    (problem,) = refusals(spec)
    assert problem.startswith("spec.steps[2].transform.value: ")
    compiled({"steps": [value("a"), value("b"), value("c", "{{ steps.a.output }}")]})


def test_every_problem_is_found_at_once() -> None:
    spec = {
        "inputSchema": {"type": "strin"},
        "triggers": [{"name": "t", "cron": {"schedule": "* * * * *"}, "input": {"a": "{{ body.x }}"}}],
        "steps": [value("a", "{{ 1 + }}"), call("b", http={"url": "https://x/{{ ' }}"}), value("c", needs=["x"])],
        "output": "{{ steps.zzz.output }}",
    }
    places = [problem.partition(": ")[0] for problem in refusals(spec)]
    assert {place.partition("[")[0].partition(".output")[0] for place in places} == {
        "spec.inputSchema.type", "spec.triggers", "spec.steps", "spec",
    }  # fmt: skip
    assert len(places) == 6


# -- shapes -------------------------------------------------------------------------------------------------------------

EMAIL = {"properties": {"email": {"type": "string"}, "age": {"type": "integer"}}}


@pytest.mark.parametrize(
    ("steps", "absent"),
    [
        ([value("a", "{{ email }}")], None),
        ([value("a", "{{ mail }}")], "mail"),
        ([{"name": "a", "transform": {"select": ["email"]}}, value("b", "{{ age }}")], "age"),
        ([{"name": "a", "transform": {"drop": ["age"]}}, value("b", "{{ age }}")], "age"),
        ([{"name": "a", "transform": {"set": {"x": 1}}}, value("b", "{{ x }}{{ age }}")], None),
        ([{"name": "a", "transform": {"select": ["email"]}, "if": "age > 3"}, value("b", "{{ age }}")], None),
        ([{"name": "a", "transform": {"select": ["email"]}, "onError": "Continue"}, value("b", "{{ age }}")], None),
        ([call("a"), value("b", "{{ anything }}")], None),
        ([value("a", needs=[]), value("b", needs=[]), value("c", "{{ a }}{{ b }}", needs=["a", "b"])], None),
        ([value("a", needs=[]), value("b", needs=[]), value("c", "{{ email }}", needs=["a", "b"])], "email"),
    ],
)
def test_a_bare_name_that_the_input_cannot_have_is_refused(steps: list[Any], absent: str | None) -> None:
    spec = {"inputSchema": EMAIL, "steps": steps}
    if absent is None:
        compiled(spec)
    else:
        (problem,) = refusals(spec)
        assert absent in problem


def test_without_a_schema_any_name_may_be_there() -> None:
    compiled({"steps": [value("a", "{{ whatever }}")]})


# -- triggers -----------------------------------------------------------------------------------------------------------

HOOK = {"webhook": {"auth": {"public": {}}}}
CRON = {"cron": {"schedule": "* * * * *"}}


@pytest.mark.parametrize(
    ("trigger", "place"),
    [
        ({**HOOK, "if": "body.a == headers.b && query.c == method", "input": {"x": "{{ event.id }}"}}, None),
        ({**HOOK, "if": "steps.a.output"}, ".if"),
        ({**HOOK, "input": "{{ body }}"}, None),
        ({**HOOK, "input": ["{{ body }}"]}, ".input"),
        ({**HOOK, "idempotencyKey": "{{ body.id }}-{{ nobody }}"}, ".idempotencyKey"),
        ({**CRON, "input": {"at": "{{ trigger.scheduledTime }}"}}, None),
        ({**CRON, "input": {"at": "{{ body }}"}}, ".input.at"),
    ],
)
def test_triggers_have_their_own_variables(trigger: dict[str, Any], place: str | None) -> None:
    spec = {"triggers": [{"name": "t", **trigger}], "steps": [value("a")]}
    if place is None:
        compiled(spec)
    else:
        (problem,) = refusals(spec)
        assert problem.startswith(f"spec.triggers[0]{place}: ")


def test_triggers_have_different_names() -> None:
    triggers = [{"name": "t", **HOOK}, {"name": "t", **CRON}]
    assert refusals({"triggers": triggers, "steps": [value("a")]}) == [
        "spec.triggers[1].name: there are two triggers 't'"
    ]


# -- what is compiled ---------------------------------------------------------------------------------------------------


def test_settings_of_the_run() -> None:
    spec = {
        "steps": [value("a")],
        "timeout": "1h",
        "priority": "High",
        "retention": {"failed": "2h"},
        "inputSchema": EMAIL,
    }
    revision = compiled(spec)
    assert (revision.timeout, revision.priority, revision.retain_succeeded, revision.retain_failed) == (
        3600,
        "High",
        604800,
        7200,
    )
    assert revision.input_schema is not None
    assert revision.output is None


def test_steps_know_their_action_and_limits() -> None:
    first, second = compiled({"steps": [value("a", onError="Continue"), call("b", timeout="5s")]}).steps
    assert (first.kind, first.effect, first.continue_on_error, first.timeout, first.retry) == (
        "transform",
        False,
        True,
        30.0,
        NEVER,
    )
    assert (second.kind, second.effect, second.continue_on_error, second.timeout) == ("httpCall", True, False, 5.0)


def retry_of(spec: dict[str, Any]) -> Any:
    return compiled(spec).steps[0].retry


def test_retry_of_the_step_wins_over_the_workflows_and_the_actions_own() -> None:
    own = retry_of({"steps": [call("a")]})
    assert own.limit == 3
    assert 429 in own.retry_on
    stated = {"limit": 7, "backoff": {"initial": "2s", "factor": 3, "max": "5m", "jitter": "None"}}
    found = retry_of({"steps": [call("a")], "retry": stated})
    assert (found.limit, found.initial, found.factor, found.maximum, found.full_jitter) == (7, 2.0, 3.0, 300.0, False)
    assert found.retry_on == own.retry_on, "what is retried stays the action's own until it is stated"
    assert retry_of({"steps": [call("a", retry={"limit": 0})], "retry": stated}).limit == 0


def test_retry_on_replaces_what_is_retried() -> None:
    post = call("a", http={"method": "POST"})
    assert retry_of({"steps": [post]}).retry_unsent_on
    found = retry_of({"steps": [{**post, "retry": {"retryOn": ["5xx", "Timeout"]}}]})
    assert (found.retry_on, found.retry_unsent_on) == ({"5xx", "Timeout"}, frozenset())


# -- handlers -----------------------------------------------------------------------------------------------------------


def test_the_steps_of_all_lists_stand_one_after_the_other() -> None:
    revision = compiled(
        {
            "steps": [value("a"), value("b")],
            "onFailure": [value("c"), value("d")],
            "finally": [value("e", needs=[]), value("f", needs=[])],
        }
    )
    assert [(step.part.word, step.name, step.needs) for step in revision.steps] == [
        ("steps", "a", ()),
        ("steps", "b", (0,)),
        ("onFailure", "c", ()),
        ("onFailure", "d", (2,)),
        ("finally", "e", ()),
        ("finally", "f", ()),
    ]
    assert revision.parts == (0b11, 0b1100, 0b110000)
    assert [step.ancestors for step in revision.steps] == [0, 0b1, 0, 0b100, 0, 0]
    assert [step.name for step in revision.main] == ["a", "b"]


def test_handlers_read_the_error_the_steps_and_what_comes_before_them_in_their_list() -> None:
    schema = {"type": "object", "properties": {"x": {}}}
    see = "{{ [error.reason, steps.a.output, steps.b.status, run.id, x] }}"
    handlers = [value("c", see), value("d", "{{ steps.c.output }}")]
    compiled({"inputSchema": schema, "steps": [value("a"), value("b")], "onFailure": handlers})
    compiled({"inputSchema": schema, "steps": [value("a"), value("b")], "finally": handlers})


@pytest.mark.parametrize(
    ("spec", "problem"),
    [
        (
            {"steps": [value("a", "{{ error.reason }}")]},
            "spec.steps[0].transform.value: error.reason: the variable error is not available here;",
        ),
        (
            {"steps": [value("a")], "output": "{{ error }}"},
            "spec.output: error: there is no variable error here",
        ),
        (
            {"steps": [value("a", "{{ steps.b.output }}")], "finally": [value("b")]},
            "spec.steps[0].transform.value: steps.b.output: step b does not come before this one;",
        ),
        (
            {"steps": [value("a")], "onFailure": [value("b")], "finally": [value("c", "{{ steps.b.output }}")]},
            "spec.finally[0].transform.value: steps.b.output: step b does not come before this one;",
        ),
        (
            {"steps": [value("a")], "onFailure": [value("b", "{{ steps.c.output }}"), value("c")]},
            "spec.onFailure[0].transform.value: steps.c.output: step c does not come before this one;",
        ),
        (
            {"steps": [value("a")], "onFailure": [value("b", needs=["a"])]},
            "spec.onFailure[0].needs[0]: step 'a' is not of onFailure; a step needs steps of its own list only",
        ),
        (
            {"steps": [value("a", needs=["b"])], "finally": [value("b")]},
            "spec.steps[0].needs[0]: step 'b' is not of steps; a step needs steps of its own list only",
        ),
        (
            {"steps": [value("a")], "finally": [value("b", needs=["bb"])]},
            "spec.finally[0].needs[0]: there is no step 'bb'",
        ),
        (
            {"steps": [value("a")], "finally": [value("b", needs=["c"]), value("c", needs=["b"])]},
            "spec.finally[0].needs: the steps wait for each other in a circle: b → c → b",
        ),
        (
            {"steps": [value("a")], "onFailure": [value("b", "{{ body }}{{")]},
            "spec.onFailure[0].transform.value: ",
        ),
        (
            {"inputSchema": {"type": "object", "properties": {"x": {}}}, "steps": [value("a", {"y": 1})],
             "finally": [value("b", "{{ y }}")]},
            "spec.finally[0].transform.value: y: ",
        ),
        (
            {"steps": [value("a"), {"name": "ask", "approval": {"link": "Enabled"}}],
             "onFailure": [value("b", "{{ approvalUrl('ask') }}")]},
            "spec.onFailure[0].transform.value: ",
        ),
    ],
)  # fmt: skip
def test_what_a_list_may_not_do(spec: dict[str, Any], problem: str) -> None:
    (found,) = refusals(spec)
    assert found.startswith(problem)


# -- what is not supported yet ------------------------------------------------------------------------------------------

LATER: dict[str, tuple[dict[str, Any], str]] = {
    "approval.link": ({"steps": [{"name": "a", "approval": {"link": "Enabled"}}]}, "spec.steps[0].approval.link"),
    "workflow": ({"steps": [{"name": "a", "workflow": {"name": "b"}}]}, "spec.steps[0].workflow"),
    "action": ({"steps": [{"name": "a", "action": {"type": "b"}}]}, "spec.steps[0].action"),
    "forEach": ({"steps": [value("a", "{{ item }}{{ index }}", forEach={"items": []})]}, "spec.steps[0].forEach"),
    "concurrency": ({"steps": [value("a")], "concurrency": {"limit": 1}}, "spec.concurrency"),
}


@pytest.mark.parametrize("feature", sorted(NOT_YET))
def test_what_is_not_supported_yet_is_refused_by_name(feature: str) -> None:
    spec, place = LATER[feature]
    assert refusals(spec) == [f"{place}: {feature} is not supported yet by this version of Stepwell; take it away"]


def test_a_step_sees_itself_in_its_own_expect_only() -> None:
    condition = {"if": "steps.a.output.ok && steps.a.http.status == 200"}
    compiled({"steps": [call("a", http={"expect": condition})]})
    assert refusals({"steps": [call("a", http={"expect": condition, "body": "{{ steps.a.output }}"})]}) == [
        "spec.steps[0].httpCall.body: steps.a.output: step a does not come before this one; only steps that do can be read"
    ]


# -- hash and features --------------------------------------------------------------------------------------------------


def test_the_hash_leaves_defaults_out() -> None:
    short = {"steps": [call("a")]}
    long = {
        "steps": [{"name": "a", "onError": "Fail", "httpCall": {"method": "GET", "url": URL, "expect": {"status": ["2xx"]}}}],
        "timeout": "43200m", "priority": "Normal", "suspend": False, "retention": {"failed": "720h"}, "triggers": [],
    }  # fmt: skip
    assert revision_hash(short) == revision_hash(long) == revision_hash(WorkflowSpec.model_validate(short))
    assert len(revision_hash(short)) == 32


@pytest.mark.parametrize(
    "change",
    [
        {"timeout": "1h"},
        {"retry": {}},
        {"output": 1},
        {"steps": [call("b")]},
        {"steps": [call("a", needs=[])]},
        {"priority": "Low"},
    ],
)
def test_the_hash_covers_what_is_stated(change: dict[str, Any]) -> None:
    assert revision_hash({"steps": [call("a")], **change}) != revision_hash({"steps": [call("a")]})


def test_the_hash_knows_no_order_of_keys() -> None:
    assert revision_hash({"steps": [value("a", {"x": 1, "y": 2})]}) == revision_hash(
        {"steps": [value("a", {"y": 2, "x": 1})]}
    )


def test_language_features() -> None:
    spec, _ = LATER["forEach"]
    assert language_features(WorkflowSpec.model_validate(spec)) == ["forEach", "transform"]
    handled = {"steps": [value("a")], "onFailure": [value("b")], "finally": [call("c")]}
    assert language_features(WorkflowSpec.model_validate(handled)) == ["finally", "httpCall", "onFailure", "transform"]
    http = call("a", http={"auth": {"basic": {"secretName": "s"}}})
    assert language_features(WorkflowSpec.model_validate({"steps": [http]})) == ["httpCall", "httpCall.auth"]


# -- documents ----------------------------------------------------------------------------------------------------------

HEAD = "apiVersion: stepwell.dev/v1alpha1\n"
TEXT = f"""{HEAD}kind: Workflow
metadata: {{name: w}}
spec:
  inputSchema: {{required: [count], properties: {{count: {{type: integer}}}}}}
  steps:
    - name: a
      transform:
        value:
          ok: "{{{{ count }}}}"
          bad: "{{{{ m }}}}"
    - name: b
      needs: [x]
      workflow: {{name: other}}
"""


def test_problems_of_documents_have_file_and_line() -> None:
    found = [str(problem) for problem in validate_documents(load_text(TEXT, "w.yaml"), ACTIONS)]
    assert [line.rpartition(": ")[0].partition(" ")[0] for line in found] == ["w.yaml:11:", "w.yaml:13:", "w.yaml:14:"]
    assert "spec.steps[1].needs[0]: there is no step 'x'" in found[1]


def test_a_run_is_checked_against_its_workflow() -> None:
    sound = TEXT.replace("{{ m }}", "").partition("    - name: b")[0]
    run = f"{HEAD}kind: WorkflowRun\nmetadata: {{name: r}}\nspec:\n  workflowRef: {{name: w}}\n  input:\n    count: x\n"
    (problem,) = validate_documents(load_text(f"{sound}---\n{run}", "w.yaml"), ACTIONS)
    assert str(problem) == 'w.yaml:19: spec.input.count: "x" is not of type "integer"'


def test_a_name_stands_once() -> None:
    text = f"{HEAD}kind: Workflow\nmetadata: {{name: w}}\nspec: {{steps: [{{name: a, fail: {{message: m}}}}]}}\n"
    (problem,) = validate_documents([*load_text(text, "a.yaml"), *load_text(text, "b.yaml")], ACTIONS)
    assert str(problem) == "b.yaml:3: metadata.name: Workflow default/w stands already at a.yaml:1; keep one"
