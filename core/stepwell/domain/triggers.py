"""The triggers of a workflow: webhook and cron."""

from __future__ import annotations

import re
from typing import Annotated, Any, ClassVar, Literal
from zoneinfo import ZoneInfo

from pydantic import AfterValidator, BeforeValidator, Field, Strict, StringConstraints

from stepwell.domain import schedule
from stepwell.domain.model import (
    BasicAuth,
    BearerAuth,
    Expression,
    HeaderName,
    JsonTemplate,
    Label,
    Model,
    Number,
    Seconds,
    SecretKeyRef,
    TextTemplate,
    at_most,
    refuse,
)


class Hmac(Model):
    """A signature over the raw body: a vendor's preset, or a header of one's own."""

    preset: Literal["GitHub", "Stripe", "Slack", "StandardWebhooks"] | None = None
    header: HeaderName | None = None
    algorithm: Literal["SHA256", "SHA512"] = "SHA256"
    encoding: Literal["Hex", "Base64"] = "Hex"
    prefix: Annotated[str, Strict(), StringConstraints(max_length=64)] | None = None
    timestamp_header: HeaderName | None = None
    tolerance: Seconds = 300.0
    secret_refs: Annotated[tuple[SecretKeyRef, ...], at_most(4, at_least=1)]

    exactly_one: ClassVar = ("preset", "header")


class Public(Model):
    """No authentication: anybody who knows the address may start a run."""


class WebhookAuth(Model):
    """Who may call a webhook; exactly one way."""

    hmac: Hmac | None = None
    bearer: BearerAuth | None = None
    basic: BasicAuth | None = None
    public: Public | None = None

    exactly_one: ClassVar = ("hmac", "bearer", "basic", "public")


class Respond(Model):
    """Answer with the run's output, waiting at most ``wait``."""

    wait: Seconds


class RateLimit(Model):
    """At most ``limit`` accepted calls in ``per``."""

    limit: Annotated[Number, Field(ge=1, le=1_000_000)]
    per: Seconds


class Webhook(Model):
    """``POST /hooks/{namespace}/{workflow}/{trigger}``."""

    auth: WebhookAuth
    respond: Respond | None = None
    rate_limit: RateLimit | None = None


_CRON_FIELD = re.compile(r"[0-9A-Za-z*?/,#-]+\Z")


def _five_fields(text: Any) -> Any:
    """First of all, so that whoever writes ``@hourly`` is not told of its length."""
    if isinstance(text, str):
        fields = text.split()
        if len(fields) != 5 or not all(map(_CRON_FIELD.match, fields)):
            shown = text if len(text) <= 64 else f"{text[:64]}…"
            refuse(f"{shown!r} is no cron schedule: write minute, hour, day, month and weekday, as in '0 3 * * *'")
    return text


def _schedule(text: str) -> str:
    try:
        schedule.check(text)
    except schedule.ScheduleError as exc:
        refuse(f"{text!r} is no cron schedule: {exc}")
    return text


def _time_zone(name: str) -> str:
    try:
        ZoneInfo(name)
    except (ValueError, OSError, KeyError):  # a folder of the time zone database is an IsADirectoryError
        refuse(f"there is no time zone {name!r}: write an IANA name such as Europe/Berlin or UTC")
    return name


class Cron(Model):
    """Starts runs by the clock; five fields, in the named time zone."""

    schedule: Annotated[
        str,
        Strict(),
        StringConstraints(min_length=9, max_length=256),
        AfterValidator(_schedule),
        BeforeValidator(_five_fields),
    ]
    time_zone: Annotated[str, Strict(), StringConstraints(min_length=1, max_length=64), AfterValidator(_time_zone)] = (
        "UTC"
    )
    concurrency_policy: Literal["Allow", "Forbid", "Replace"] = "Allow"
    missed_runs: Literal["Skip", "Latest", "All"] = "Latest"
    starting_deadline: Seconds | None = None
    jitter: Seconds | None = None

    def model_post_init(self, _context: Any, /) -> None:
        """A time that a zone leaves out whenever it would come is never due there."""
        try:
            schedule.check(self.schedule, self.time_zone)
        except schedule.ScheduleError as exc:
            refuse(f"{self.schedule!r} is no cron schedule: {exc}")


class Trigger(Model):
    """What starts a run: exactly one of webhook and cron, with a condition and a template of the run's input."""

    name: Label
    webhook: Webhook | None = None
    cron: Cron | None = None
    if_: Expression | None = Field(default=None, alias="if")
    input: JsonTemplate = None
    idempotency_key: TextTemplate | None = None

    exactly_one: ClassVar = ("webhook", "cron")
