"""How values of the environment are read."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TypeVar

from stepwell.domain.errors import UsageError

KEY_LENGTH = 32  # characters

T = TypeVar("T")


class Reader:
    """Reads the variables of one environment; blank is as good as unset."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        self._environment = environment

    def text(self, name: str) -> str | None:
        """A text, None where it is not set."""
        return self._environment.get(name, "").strip() or None

    def value(self, name: str, default: T, convert: Callable[[str], T]) -> T:
        """A value; ``convert`` raises ValueError with what is wrong. Raises UsageError, which names the variable."""
        text = self.text(name)
        if text is None:
            return default
        try:
            return convert(text)
        except ValueError as exc:
            message = f"{name}: {exc}" if convert is secret else f"{name}={text!r}: {exc}"
            raise UsageError(message) from exc


def positive(text: str) -> int:
    """A number from 1 to 10,000."""
    number = int(text)
    if not 1 <= number <= 10_000:
        message = "must be between 1 and 10000"
        raise ValueError(message)
    return number


def count(text: str) -> int:
    """A number from 0 to 10,000,000."""
    number = int(text)
    if not 0 <= number <= 10_000_000:
        message = "must be between 0 and 10000000"
        raise ValueError(message)
    return number


def port(text: str) -> int:
    """A TCP port, or 0."""
    number = int(text)
    if not 0 <= number <= 65_535:
        message = "must be between 0 and 65535"
        raise ValueError(message)
    return number


def switch(text: str) -> bool:
    """``true`` or ``false``."""
    if text.lower() not in {"true", "false"}:
        message = "must be true or false"
        raise ValueError(message)
    return text.lower() == "true"


def one_of(*words: str) -> Callable[[str], str]:
    """One of some words, in any case."""

    def convert(text: str) -> str:
        for word in words:
            if text.lower() == word.lower():
                return word
        message = f"must be {', '.join(words[:-1])} or {words[-1]}"
        raise ValueError(message)

    return convert


def secret(text: str) -> str:
    """A key that nobody guesses."""
    if len(text) < KEY_LENGTH:
        message = f"must have {KEY_LENGTH} characters or more"
        raise ValueError(message)
    return text
