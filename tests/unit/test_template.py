"""Where problems are reported, what a template hands out, its limits, and the scanner under arbitrary text."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from stepwell.domain.errors import EvaluationError
from stepwell.domain.expressions import STEP_VARIABLES, Context, Scope
from stepwell.domain.placeholders import Placeholder, PlaceholderError, split, whole
from stepwell.domain.template import Template, TextTemplate, compile_template, compile_text

SCOPE = Scope(STEP_VARIABLES, steps=frozenset({"a"}), declared=frozenset({"a"}), bare=True)


def context(**variables: Any) -> Context:
    return Context(variables, now=datetime(2026, 1, 1, tzinfo=UTC))


def refuse(path: str, message: str) -> None:
    pytest.fail(f"{path}: {message}")


def template(value: Any) -> Template:
    return compile_template(value, SCOPE, refuse)


def text(value: str) -> TextTemplate:
    return compile_text(value, SCOPE, refuse)


def problems(value: Any) -> list[tuple[str, str]]:
    found: list[tuple[str, str]] = []
    compile_template(value, SCOPE, lambda path, message: found.append((path, message)))
    return found


class TestCompile:
    def test_every_problem_is_reported_with_its_path(self) -> None:
        value = {"ok": "{{ email }}", "a": ["x", "{{ 1 + }}"], "b": {"c": "{{ steps.b }}", "d": "{{"}, "{{ k }}": 1}
        assert [path for path, _ in problems(value)] == [".a[1]", ".b.c", ".b.d", ".{{ k }}"]

    def test_two_problems_of_one_string(self) -> None:
        assert [path for path, _ in problems("{{ 1 + }} {{ 2 + }}")] == ["", ""]

    def test_a_problem_of_a_text(self) -> None:
        found: list[tuple[str, str]] = []
        compile_text("x {{ 1 + }}", SCOPE, lambda path, message: found.append((path, message)))
        assert [path for path, _ in found] == [""]

    def test_keys_are_literal(self) -> None:
        assert "literal" in problems({"{{ email }}": 1})[0][1]
        assert template({"}} {": "{{ email }}"}).render(context(input={"email": 1})) == {"}} {": 1}

    def test_variables(self) -> None:
        value = {"a": "{{ email }} {{ run.id }}", "b": [{"c": "{{ steps.a.output }}"}], "d": "item"}
        assert template(value).variables == {"input", "run", "steps"}
        assert text("{{ item }}-{{ index }}").variables == {"item", "index"}
        assert template({"a": 1}).variables == frozenset()

    def test_nesting_of_the_template(self) -> None:
        value: Any = "{{ email }}"
        for _ in range(64):
            value = [value]
        assert problems(value) == []
        assert "deeper than 64" in problems([value])[0][1]


class TestRender:
    def test_values_keep_their_place_and_order(self) -> None:
        value = {"z": 1, "b": "{{ n }}", "a": [None, "{{ n }}", {"x": "v{{ n }}"}], "c": True}
        rendered = template(value).render(context(input={"n": 2}))
        assert rendered == {"z": 1, "b": 2, "a": [None, 2, {"x": "v2"}], "c": True}
        assert list(rendered) == ["z", "b", "a", "c"]  # type: ignore[arg-type]

    def test_a_template_can_be_rendered_again(self) -> None:
        compiled = template({"a": ["{{ n }}"], "b": ["{{ n }}"]})
        first = compiled.render(context(input={"n": 1}))
        assert compiled.render(context(input={"n": 2})) == {"a": [2], "b": [2]}
        assert first == {"a": [1], "b": [1]}

    def test_a_constant_is_itself(self) -> None:
        value = {"a": [1, {"b": "text"}]}
        assert template(value).render(context()) is value

    def test_null_stays_null_as_a_whole_value(self) -> None:
        assert template({"a": "{{ null }}"}).render(context()) == {"a": None}

    def test_quote_sees_interpolated_values_only(self) -> None:
        rendered = text("https://x/{{ a }}/?q={{ n }}&r=ü").render(
            context(input={"a": "b/c ?", "n": 1.5}), lambda value: quote(value, safe="")
        )
        assert rendered == "https://x/b%2Fc%20%3F/?q=1.5&r=ü"

    def test_a_text_of_one_expression_is_text(self) -> None:
        assert text(" {{ n }} ").render(context(input={"n": 1})) == " 1 "
        assert text("{{ n }}").render(context(input={"n": {"b": [1, None]}})) == '{"b":[1,null]}'

    def test_null_has_no_text(self) -> None:
        with pytest.raises(EvaluationError, match="n: null has no text"):
            text("{{ n }}").render(context(input={"n": None}))


class TestLimits:
    def test_the_result_is_at_most_a_mebibyte(self) -> None:
        big = context(input={"s": "x" * 300_000, "o": {"s": ["x" * 300_000]}})
        assert text("{{ s }}{{ s }}{{ s }}").render(big)
        for value in (
            "{{ s }}{{ s }}{{ s }}{{ s }}",
            ["{{ s }}"] * 4,
            ["{{ o }}"] * 4,
            {"a": "{{ o }}", "b": ["v{{ o }}"] * 3},
        ):
            with pytest.raises(EvaluationError, match="larger than 1,048,576 bytes"):
                template(value).render(big)

    def test_place_and_value_together_are_at_most_64_deep(self) -> None:
        value: Any = 1
        for _ in range(60):
            value = [value]
        assert template([[["{{ v }}"]]]).render(context(input={"v": value}))
        with pytest.raises(EvaluationError, match="deeper than 64"):
            template([[[[["{{ v }}"]]]]]).render(context(input={"v": value}))

    def test_many_small_lists_are_not_deep(self) -> None:
        assert template({"a": {"b": "{{ v }}"}}).render(context(input={"v": [[1]] * 500}))


TEXTS = st.text(st.sampled_from("{}'\"`rbB\\/#\n a1.[]()_,é𝄞\0") | st.characters(), max_size=60)


class TestScanner:
    @given(st.text().filter(lambda value: "{{" not in value))
    def test_text_without_braces_is_unchanged(self, value: str) -> None:
        assert "".join(map(str, split(value))) == value
        assert template(value).render(context()) == value

    @settings(max_examples=500)
    @given(TEXTS)
    @example("{{ '''}} '' ''' }}")
    @example('{{ r"\\"}}')
    def test_it_never_crashes_and_loses_nothing(self, value: str) -> None:
        try:
            parts = split(value)
        except PlaceholderError:
            return
        position = 0
        for part in parts:
            expected = part if isinstance(part, str) else part.expression
            assert expected
            position = value.index(expected, position) + len(expected)

    @settings(max_examples=300, deadline=None)
    @given(TEXTS)
    def test_compiling_never_crashes(self, value: str) -> None:
        compile_template("{{" + value, SCOPE, lambda path, message: None)
        compile_template("{{" + value + "}}", SCOPE, lambda path, message: None)

    @given(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0\r\n'\\")))
    def test_any_text_survives_as_a_literal_of_cel(self, value: str) -> None:
        assert split(f"a{{{{ '{value}' }}}}b") == ["a", Placeholder(f"'{value}'"), "b"]
        assert template(f"<{{{{ '{value}' }}}}>").render(context()) == f"<{value}>"

    @given(st.lists(st.sampled_from(["x", "{ y }", "{{ email }}", "{{ '}}' }}", "{{ {'a': {}} }}", "}}"]), max_size=6))
    def test_parts_come_back(self, pieces: list[str]) -> None:
        parts = split(" ".join(pieces))
        assert sum(isinstance(part, Placeholder) for part in parts) == sum(piece.startswith("{{") for piece in pieces)

    @given(st.text())
    def test_what_was_interpolated_is_not_scanned(self, value: str) -> None:
        given_value = context(input={"v": value})
        assert template("<{{ v }}>").render(given_value) == f"<{value}>"
        assert template("{{ v }}").render(given_value) == value

    def test_whole(self) -> None:
        assert whole(split(" {{ a }}\n")) == Placeholder("a")
        assert whole(split("{{ a }}{{ b }}")) is None
        assert whole(split("x{{ a }}")) is None
        assert whole(split("\u00a0{{ a }}")) is None

    def test_a_long_text_is_scanned_in_linear_time(self) -> None:
        assert len(split("{{ a }}x" * 20_000)) == 40_000
        for value in (
            "{{ " + "'" * 50_000,
            "{{ " + '"""' * 20_001,
            "{{ " + "{" * 50_000,
            "{{" * 30_000,
            "{{ r'" + "\\" * 50_000,
        ):
            with pytest.raises(PlaceholderError):
                split(value)
