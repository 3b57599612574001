"""Who may call a webhook."""

from __future__ import annotations

import binascii
import hmac
import logging
import time
from base64 import b64decode
from typing import TYPE_CHECKING, NamedTuple

from stepwell.domain.errors import UnavailableError
from stepwell.domain.secrets import SecretError, usable_secret
from stepwell_gateway.hooks.signatures import is_signed, work_in_vain

if TYPE_CHECKING:
    from stepwell.domain.secrets import SecretNotes, SecretResolver
    from stepwell.domain.triggers import Hmac, WebhookAuth
    from stepwell.engine.clock import Clock
    from stepwell_gateway.hooks.delivery import Delivery

TOLD = 60.0  # seconds in which one complaint about a Secret is logged once
MAX_TOLD = 1_000

log = logging.getLogger(__name__)


class Place(NamedTuple):
    """Whose webhook it is."""

    namespace: str
    workflow: str


NOWHERE = Place("", "")


class Authentication:
    """Checks deliveries against the Secrets of a namespace, read at every check."""

    def __init__(self, secrets: SecretResolver, clock: Clock, notes: SecretNotes) -> None:
        self._secrets = secrets
        self._clock = clock
        self._notes = notes
        self._told: dict[str, float] = {}

    async def admits(self, place: Place, auth: WebhookAuth | None, delivery: Delivery) -> bool:
        """Whether the delivery is from somebody who may send it; never where ``auth`` is None: there is no such hook.

        A no takes the same work everywhere. Raises UnavailableError where the Secrets cannot be read right now.
        """
        try:
            admitted = auth is not None and await self._admits(place, auth, delivery)
        except SecretError as exc:
            if exc.passing:
                raise UnavailableError(str(exc)) from exc
            self._complain("a webhook answers 401 because of its Secret", place.namespace, exc)
            admitted, auth = False, None
        if not admitted and (auth is None or auth.hmac is None):
            work_in_vain(delivery)
        return admitted

    async def _admits(self, place: Place, auth: WebhookAuth, delivery: Delivery) -> bool:
        if auth.hmac is not None:
            keys = await self._keys(place, auth.hmac)
            return is_signed(auth.hmac, keys, delivery, self._clock.micros() / 1e6)
        if auth.bearer is not None:
            ref = auth.bearer.secret_ref
            return _is_bearer(delivery, await self._value(place, ref.name, ref.key))
        if auth.basic is not None:
            name = auth.basic.secret_name
            pair = [await self._value(place, name, key) for key in ("username", "password")]
            return _is_basic(delivery, b":".join(pair))
        return auth.public is not None

    async def _keys(self, place: Place, spec: Hmac) -> list[bytes]:
        """Those that are there: while keys are changed, one that is missing must not turn away who signs with another.

        Raises SecretError where none is left, or where one cannot be read right now.
        """
        keys: list[bytes] = []
        met: dict[str, SecretError | None] = {}
        for ref in spec.secret_refs:
            try:
                value = await self._read(place.namespace, ref.name, ref.key)
                keys.append(_standard_key(value) if spec.preset == "StandardWebhooks" else value)
            except SecretError as exc:
                if exc.passing:
                    raise
                met[ref.name] = exc
            else:
                met.setdefault(ref.name, None)
        for name, trouble in met.items():
            self._notes.met(*place, name, trouble)
        troubles = [trouble for trouble in met.values() if trouble is not None]
        if not keys:
            raise troubles[0]
        for trouble in troubles:
            self._complain("a webhook goes without one of its keys", place.namespace, trouble)
        return keys

    async def _value(self, place: Place, name: str, key: str) -> bytes:
        """A value that was noted to be there. Raises SecretError."""
        try:
            value = await self._read(place.namespace, name, key)
        except SecretError as exc:
            self._notes.met(*place, name, exc)
            raise
        self._notes.met(*place, name, None)
        return value

    async def _read(self, namespace: str, name: str, key: str) -> bytes:
        """A value without the line break that text files end with. Raises SecretError where nothing is left."""
        secret = await usable_secret(self._secrets, namespace, name)
        value = secret.value(key).reveal().rstrip(b"\r\n")
        if not value:
            message = f"the key {key} of the Secret {name} is empty"
            raise SecretError("SecretInvalid", message)
        return value

    def _complain(self, what: str, namespace: str, error: SecretError) -> None:
        """The sender learns nothing of it, so that the log has to tell; once a minute, whoever knocks."""
        now, text = time.monotonic(), f"{what}: {namespace}: {error}"
        if now - self._told.get(text, -TOLD) < TOLD:
            return
        if len(self._told) >= MAX_TOLD:
            self._told.clear()
        self._told[text] = now
        log.warning("%s: %s", what, error, extra={"namespace": namespace})


def _standard_key(value: bytes) -> bytes:
    try:
        key = b64decode(value.removeprefix(b"whsec_"), validate=True)
    except (binascii.Error, ValueError):
        key = b""
    if not key:
        raise SecretError("SecretInvalid", "a key of Standard Webhooks is whsec_ and Base64")
    return key


def _is_bearer(delivery: Delivery, token: bytes) -> bool:
    return hmac.compare_digest(_credentials(delivery, b"bearer"), token)


def _is_basic(delivery: Delivery, pair: bytes) -> bool:
    try:
        given = b64decode(_credentials(delivery, b"basic"), validate=True)
    except (binascii.Error, ValueError):
        return False
    return hmac.compare_digest(given, pair)


def _credentials(delivery: Delivery, scheme: bytes) -> bytes:
    found, _, rest = (delivery.header(b"authorization") or b"").partition(b" ")
    return rest.strip(b" ") if found.lower() == scheme else b""
