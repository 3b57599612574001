"""What an unquoted YAML word means to kubectl: YAML 1.1 as Go's yaml.v2 resolves it, then made JSON.

It differs from other readers of YAML 1.1: ``1:30`` is text, ``1e3`` a number, a date stays text, ``0o17`` is octal.
"""

from __future__ import annotations

import math
import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from stepwell.domain.documents import JsonValue

EXACT = 2**53

TRUE = frozenset("y Y yes Yes YES true True TRUE on On ON".split())  # noqa: SIM905 - words, not code
FALSE = frozenset("n N no No NO false False FALSE off Off OFF".split())  # noqa: SIM905 - words, not code
NULL = frozenset({"", "~", "null", "Null", "NULL"})
_SPECIAL = re.compile(r"[-+]?\.(inf|Inf|INF)\Z|\.(nan|NaN|NAN)\Z")
_INTEGER = re.compile(r"[-+]?(0[xX][0-9a-fA-F]+|0[bB][01]+|0[oO]?[0-7]+|0|[1-9][0-9]*)\Z")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?\Z")


def resolve(word: str) -> JsonValue:
    """The value of a plain scalar. Raises ValueError, with the reason, for a number that JSON cannot keep."""
    if word in NULL:
        return None
    if word in TRUE or word in FALSE:
        return word in TRUE
    if word[0] in "+-.0123456789":
        return _number(word)
    return word


def _number(word: str) -> JsonValue:
    if _SPECIAL.match(word):
        message = f"{word} is no JSON number; put it in quotes if it is meant as text"
        raise ValueError(message)
    digits = word if word[0] == "." else word.replace("_", "")
    if _INTEGER.match(digits):
        return _exact(_integer(digits), word)
    if not _FLOAT.match(digits):
        return word
    value = float(digits)
    if math.isinf(value):
        message = f"{word[:40]} is too large for a JSON number; put it in quotes"
        raise ValueError(message)
    return _exact(int(value), word) if value.is_integer() and abs(value) < 1e21 else value


def _integer(digits: str) -> int:
    sign = -1 if digits[0] == "-" else 1
    digits = digits.lstrip("+-").lower()
    if len(digits) > 100:
        return sign * EXACT * 2
    if digits[:1] == "0" and len(digits) > 1 and digits[1] not in "xbo":
        digits = f"0o{digits}"
    return sign * int(digits, 0)


def _exact(value: int, word: str) -> int:
    if abs(value) > EXACT:
        message = f"the integer {word[:40]} is beyond ±2^53, where JSON readers lose digits; put it in quotes"
        raise ValueError(message)
    return value
