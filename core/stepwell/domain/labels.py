"""Labels and annotations as Kubernetes takes them (k8s.io/apimachinery ``IsQualifiedName``, ``IsValidLabelValue``)."""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import AfterValidator

from stepwell.domain.model import Text, refuse

MAX_ANNOTATIONS = 256 * 1024  #: bytes, keys and values together

_NAME = re.compile(r"([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]")
_PREFIX = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*")


def _key(text: str) -> str:
    prefix, slash, name = text.rpartition("/")
    sound = len(name) <= 63 and _NAME.fullmatch(name)
    if not sound or (slash and (len(prefix) > 253 or not _PREFIX.fullmatch(prefix))):
        shown = text if len(text) <= 80 else f"{text[:80]}…"
        refuse(
            f"{shown!r} is no key: write at most 63 letters, digits, '-', '_' or '.', with a letter or digit at both ends, "
            "after an optional domain in lower case and '/'"
        )
    return text


def _annotation_key(text: str) -> str:
    _key(text.lower())
    return text


def _label_value(text: str) -> str:
    if text and not (len(text) <= 63 and _NAME.fullmatch(text)):
        refuse(
            f"{text[:80]!r} is no label's value: write at most 63 letters, digits, '-', '_' or '.', with a letter or digit "
            "at both ends; longer texts are for annotations"
        )
    return text


def _bounded(annotations: dict[str, str]) -> dict[str, str]:
    size = sum(len(key.encode()) + len(value.encode()) for key, value in annotations.items())
    if size > MAX_ANNOTATIONS:
        refuse(f"annotations have {size:,} bytes together; at most {MAX_ANNOTATIONS:,} are allowed")
    return annotations


Labels = dict[Annotated[Text, AfterValidator(_key)], Annotated[Text, AfterValidator(_label_value)]]
Annotations = Annotated[dict[Annotated[Text, AfterValidator(_annotation_key)], Text], AfterValidator(_bounded)]
