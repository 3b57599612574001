"""Links to approvals: what they carry, who can forge them (nobody), and that none is stored."""

from __future__ import annotations

import base64
from typing import Any

import pytest
from engine_life import World, actions_of, load, nothing, scene
from engine_specs import document, effect, failure, value
from hypothesis import given
from hypothesis import strategies as st
from virtual_time import EPOCH, virtual_time

from stepwell.actions.approval import Approval
from stepwell.domain.action import Call, Outcome
from stepwell.domain.approval_links import ApprovalLinks, Link, approval_links, without_links
from stepwell.domain.approvals import Decision, Question
from stepwell.domain.errors import ManifestError

RUN = "01a20566-58b5-7d1f-8d2d-716956d2bc1a"
LINKS = ApprovalLinks(b"k" * 32, "https://flows.example")
LINK = Link(RUN, "ask", EPOCH + 1)


def token(link: Link = LINK, links: ApprovalLinks = LINKS) -> str:
    return links.url(link).removeprefix("https://flows.example/approvals/")


@given(st.uuids(), st.from_regex(r"[a-z][a-z0-9_]{0,62}", fullmatch=True), st.integers(1, 1 << 62))
def test_a_link_means_what_it_was_made_of(run: Any, step: str, expires: int) -> None:
    link = Link(str(run), step, expires)
    assert LINKS.read(token(link), expires - 1) == link
    assert LINKS.read(token(link), expires) is None, "expired"


def test_nothing_else_is_a_link() -> None:
    good = token()
    payload, _, digest = good.partition(".")
    other = token(Link(RUN, "other", LINK.expires))
    assert LINKS.read(good, EPOCH) == LINK
    forged = [
        "", ".", payload, f"{payload}.", f".{digest}", f"{good}=", f"{good}A", good[:-1], good.replace(".", ""),
        f"{payload}.{other.partition('.')[2]}", f"{other.partition('.')[0]}.{digest}", good.swapcase(), f"{good} ",
        f"{payload}.{base64.urlsafe_b64encode(bytes(32)).rstrip(b'=').decode()}", f"é{good}", "\x00", "a" * 10_000,
        token(links=ApprovalLinks(b"K" * 32, "https://flows.example")),
    ]  # fmt: skip
    assert [LINKS.read(text, EPOCH) for text in forged] == [None] * len(forged)


def test_without_a_key_or_an_address_there_are_none() -> None:
    assert approval_links(None, "https://x") is approval_links("k" * 32, "") is None
    assert "kkkk" not in repr(LINKS)


def test_what_is_stored_holds_no_token() -> None:
    url = LINKS.url(LINK)
    hidden = without_links(Outcome({"text": f"go to {url}!", "n": [1, url]}, {"headers": {"x": url}}))
    assert hidden.output == {
        "text": "go to https://flows.example/approvals/***!",
        "n": [1, "https://flows.example/approvals/***"],
    }
    assert hidden.http == {"headers": {"x": "https://flows.example/approvals/***"}}
    same = {"text": "/approvals/short.x"}
    assert without_links(Outcome(same)).output is same


# -- in expressions --------------------------------------------------------------------------------------------------------

ASK = {"name": "ask", "approval": {"link": "Enabled"}}


class Decided:
    """Questions that were decided before they were asked."""

    async def ask(self, question: Question) -> Decision | None:
        return Decision(approved=True, by="link")

    async def expire(self, question: Question, decision: Decision) -> Decision:
        return decision


@virtual_time
async def test_an_effect_sends_the_link_and_no_record_keeps_it() -> None:
    sent: list[Any] = []

    async def perform(call: Call, body: Any) -> Any:
        sent.append(body["input"])
        if len(sent) == 1:
            raise failure(http={"body": body["input"]})
        return Outcome({"echo": body["input"]}, {"body": body["input"]})

    tell = effect("tell", needs=[], retry={"limit": 1, "backoff": {"initial": "10ms"}})
    tell["httpCall"] = {"url": "https://a.example", "body": {"input": "{{ 'Decide: ' + approvalUrl('ask') }}"}}
    steps = [tell, {**ASK, "needs": []}, value("kept", "{{ approvalUrl('ask') }}", needs=["ask"])]
    async with scene({"steps": steps}, World(perform), actions={"approval": Approval(Decided())}, links=LINKS) as s:
        await s.submit(RUN)
        assert await s.ended(RUN) == "succeeded"
        url = LINKS.url(Link(RUN, "ask", EPOCH + 720 * 3_600_000_000))
        assert sent == [f"Decide: {url}"] * 2, "the same at every attempt"
        kept = s.database.attempts(RUN)
        assert not any(url.encode() in (d or b"") for r in kept for d in (r.input, r.output, r.error, r.http))
        outputs = {r.step: document(r.output) for r in kept}
        assert outputs["kept"] == "https://flows.example/approvals/***"


@virtual_time
async def test_an_item_may_be_a_link_and_no_record_keeps_it() -> None:
    sent: list[Any] = []

    async def perform(call: Call, body: Any) -> Any:
        sent.append(body)
        return {"done": call.item}

    items = ["{{ approvalUrl('ask') }}", "plain"]
    tell = effect("tell", needs=[], forEach={"items": items, "maxParallel": 1})
    tell["httpCall"] = {"url": "https://a.example", "body": "{{ item }}"}
    steps = [tell, {**ASK, "needs": []}]
    async with scene({"steps": steps}, World(perform), actions={"approval": Approval(Decided())}, links=LINKS) as s:
        await s.submit(RUN)
        assert await s.ended(RUN) == "succeeded"
        assert sent == [LINKS.url(Link(RUN, "ask", EPOCH + 720 * 3_600_000_000)), "plain"]
        found = [document(r.input) for r in s.database.attempts(RUN) if r.item >= 0]
        assert found == ["https://flows.example/approvals/***", "plain"]


@virtual_time
async def test_without_a_key_the_step_fails_and_says_what_to_set() -> None:
    async with scene({"steps": [ASK, value("a", "{{ approvalUrl('ask') }}", needs=[])]}) as s:
        await s.submit()
        assert await s.ended() == "failed"
        errors = [document(r.error) for r in s.database.attempts() if r.step == "a"]
        assert errors[0]["reason"] == "NoApprovalLinks"
        assert "STEPWELL_APPROVAL_KEY" in errors[0]["message"]


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("{{ approvalUrl('other') }}", "no approval step 'other' has link: Enabled; those that do: ask"),
        ("{{ approvalUrl('silent') }}", "no approval step 'silent' has link: Enabled"),
        ("{{ approvalUrl(run.id) }}", "takes the name of an approval step, in quotes"),
        ("{{ approvalUrl('ask', 'ask') }}", "takes the name of an approval step, in quotes"),
        ("{{ approvalUrl() }}", "takes the name of an approval step, in quotes"),
    ],
)
def test_only_steps_with_a_link_have_one(template: str, message: str) -> None:
    spec = {"steps": [ASK, {"name": "silent", "approval": {}}, value("a", template, needs=[])]}
    actions = actions_of(World(nothing))
    with pytest.raises(ManifestError, match="approvalUrl") as refused:
        load(spec, actions)
    assert message in str(refused.value)
