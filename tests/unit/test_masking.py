"""Masking: every form of a value, everywhere in a document, at no cost where there is none."""

from __future__ import annotations

import html
import json
import re
import time
from base64 import b64encode, urlsafe_b64encode
from typing import Any
from urllib.parse import quote, quote_plus

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stepwell.domain.masking import MASK, NO_MASK, Mask, mask_of

VALUE = 'p@ss/w+rd= "x y" é&<z>`\\'
CANARY = "canary-7f3a9c1e5b"


def lower_hex(text: str) -> str:
    return re.sub("%..", lambda match: match[0].lower(), text)


def web_json(text: str, marks: str, form: str) -> str:
    """As encoders escape what would mean something in a page."""
    for mark in marks:
        text = text.replace(mark, f"\0{ord(mark):{form}}")
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\0", "\\u")


FORMS = {
    "plain": lambda text: text,
    "base64": lambda text: b64encode(text.encode()).decode().rstrip("="),
    "urlsafe base64": lambda text: urlsafe_b64encode(text.encode()).decode().rstrip("="),
    "quote": quote,
    "quote all": lambda text: quote(text, safe=""),
    "quote_plus": quote_plus,
    "encodeURIComponent": lambda text: quote(text, safe="!'()*~"),
    "a path": lambda text: quote(text, safe="/:@!$&'()*+,;=~"),
    "every byte": lambda text: "".join(f"%{byte:02x}" for byte in text.encode()),
    "json": lambda text: json.dumps(text)[1:-1],
    "json in utf-8": lambda text: json.dumps(text, ensure_ascii=False)[1:-1],
    "json of Go": lambda text: web_json(text, "<>&", "04x"),
    "json of Gson": lambda text: web_json(text, "<>&='", "04x"),
    "json of Django": lambda text: web_json(text, "<>&", "04X"),
    "json of PHP": lambda text: web_json(text, "<>&'\"", "04X"),
    "json of .NET": lambda text: web_json(text, "<>&'\"+`é", "04X"),
    "html": html.escape,
    "html of Jinja": lambda text: html.escape(text).replace("&quot;", "&#34;").replace("&#x27;", "&#39;"),
    "repr": lambda text: repr(text)[1:-1],
    "repr of bytes": lambda text: repr(text.encode())[2:-1],
}


@pytest.mark.parametrize("value", [VALUE, CANARY, "it's 'x'=\"y\"+z"])
@pytest.mark.parametrize("form", FORMS)
def test_a_form_inside_of_a_text(form: str, value: str) -> None:
    text = Mask([value.encode()]).text(f"before {FORMS[form](value)} after")
    assert text.startswith("before ***")
    assert text.endswith(" after")
    assert len(text) < len("before *** after") + 2


@given(st.binary(min_size=8, max_size=64), st.binary(max_size=7), st.binary(max_size=7))
def test_base64_of_something_that_holds_the_value(value: bytes, before: bytes, after: bytes) -> None:
    mask = Mask([value])
    for encode in (b64encode, urlsafe_b64encode):
        encoded = encode(before + value + after).decode()
        assert mask.found(encoded)
        left = mask.text(encoded).replace(MASK, "")
        assert len(left) * 6 <= (len(before) + len(after)) * 8 + 4 * 6 + 8


@given(st.text(min_size=8, max_size=40))
def test_text_url_and_json_forms_of_any_value(value: str) -> None:
    mask = Mask([value.encode()])
    forms = [value, quote(value), quote(value, safe=""), quote_plus(value), json.dumps(value)[1:-1]]
    for form in [*forms, *map(lower_hex, forms[1:4])]:
        assert mask.text(form) == MASK


def test_in_a_document() -> None:
    document: Any = {"a": [CANARY, {"k": f"x {CANARY} y", CANARY: 1}], "n": 1, "t": True, "z": None}
    assert mask_of((CANARY.encode(),)).value(document) == {
        "a": ["***", {"k": "x *** y", "***": 1}],
        "n": 1,
        "t": True,
        "z": None,
    }
    assert CANARY in document["a"][0]


def test_a_value_that_json_escapes_is_found_in_a_document() -> None:
    assert Mask([VALUE.encode()]).value([{"k": VALUE}, [f"<{VALUE}>"]]) == [{"k": "***"}, ["<***>"]]


@pytest.mark.parametrize("number", [1234567890, -1234567890, 12345678.25])
def test_a_number_that_is_the_value(number: float) -> None:
    assert Mask([orjson.dumps(abs(number))]).value({"pin": number, "other": 12}) == {"pin": "***", "other": 12}


def test_a_document_without_the_value_is_handed_back_as_it_is() -> None:
    document: Any = {"a": ["b" * 1000, 1.5]}
    assert Mask([b"canary-canary"]).value(document) is document
    assert NO_MASK.value(document) is document


def test_short_values_are_not_masked() -> None:
    mask = Mask([b"1234567", b"", b"a"])
    assert not mask
    assert mask.text("1234567 a") == "1234567 a"


def test_a_text_that_nearly_holds_a_long_value_takes_no_seconds() -> None:
    """A regular expression of all forms would begin anew at every character."""
    mask = Mask([b"a" * 8000])
    text = ("a" * 7999 + "~") * 130
    began = time.perf_counter()
    assert mask.text(f"{text}{'a' * 8000}") == f"{text}***"
    assert time.perf_counter() - began < 1.5


def test_the_longest_value_first() -> None:
    mask = Mask([b"password", b"user:password"])
    assert mask.text("user:password password") == "*** ***"


@given(st.integers(4, len(CANARY) - 1))
def test_what_a_cut_left_of_a_value(length: int) -> None:
    mask = Mask([CANARY.encode()])
    text = f"x {CANARY[:length]}"
    assert mask.text(text, cut=True) == "x ***"
    assert mask.text(text) == text


def test_the_beginning_of_a_value_may_stand_in_the_middle() -> None:
    assert Mask([CANARY.encode()]).text("canary-7 sings", cut=True) == "canary-7 sings"


def test_a_mask_shows_nothing() -> None:
    assert CANARY not in repr(Mask([CANARY.encode()]))


def test_values_that_are_no_text() -> None:
    value = b"\xff\xfe\x00canary\x80"
    mask = Mask([value])
    assert mask.text(f"<{b64encode(value).decode()}>").startswith("<***")
    assert mask.text(repr(value)) == "b'***'"
