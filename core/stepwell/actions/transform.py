"""``transform``: reshapes the step's input by ``select``, ``drop`` and ``set``, in this order, or by ``value`` alone.

What a transform returns shares parts with its input; neither is ever changed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, NoReturn, TypeAlias

from stepwell.domain.retry import NEVER, RetryPolicy, StepFailure

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from stepwell.domain.action import Compiler, PureAction, Shape
    from stepwell.domain.documents import JsonObject, JsonValue
    from stepwell.domain.expressions import Context
    from stepwell.domain.steps import Transform as Spec
    from stepwell.domain.template import Template

Paths: TypeAlias = "dict[str, Paths | None]"
"""Dot paths as a tree; None stands for the whole value."""

Stage: TypeAlias = "Callable[[JsonObject], JsonObject]"


class Transform:
    """The action type ``transform``."""

    name: ClassVar[str] = "transform"
    effect: ClassVar[bool] = False

    def compile(self, spec: Spec, compiler: Compiler) -> PureAction:
        """Compile the templates; refuse a path with an empty part."""
        if spec.value is not None:
            return _Value(compiler.at(".value").template(spec.value))
        stages: list[Stage] = []
        if spec.select is not None:
            stages.append(_selector(_tree(spec.select, compiler.at(".select"))))
        if spec.drop is not None:
            stages.append(_dropper(_tree(spec.drop, compiler.at(".drop"))))
        additions = None if spec.set is None else compiler.at(".set").template(spec.set)
        return _Reshape(tuple(stages), additions)

    def retry(self, spec: Spec) -> RetryPolicy:  # noqa: ARG002 - the protocol's signature
        """Never: it would fail again."""
        return NEVER

    def shape(self, spec: Spec, given: Shape) -> Shape:
        """The fields of the output, where they are known."""
        if spec.value is not None:
            return frozenset(spec.value) if isinstance(spec.value, dict) else None
        fields = given
        if spec.select is not None:
            fields = frozenset(path.partition(".")[0] for path in spec.select)
        if fields is None:
            return None
        return (fields - frozenset(path for path in spec.drop or () if "." not in path)) | frozenset(spec.set or ())


class _Value:
    __slots__ = ("_template",)

    def __init__(self, template: Template) -> None:
        self._template = template

    def run(self, value: JsonValue, context: Context) -> JsonValue:  # noqa: ARG002 - the protocol's signature
        return self._template.render(context)


class _Reshape:
    __slots__ = ("_additions", "_stages")

    def __init__(self, stages: tuple[Stage, ...], additions: Template | None) -> None:
        self._stages = stages
        self._additions = additions

    def run(self, value: JsonValue, context: Context) -> JsonValue:
        if not isinstance(value, dict):
            _refuse(value)
        for stage in self._stages:
            value = stage(value)
        if self._additions is None:
            return value
        added: Any = self._additions.render(context)
        return {**value, **added}


def _refuse(value: JsonValue) -> NoReturn:
    kinds = {bool: "a boolean", int: "a number", float: "a number", str: "text", list: "a list"}
    found = "null" if value is None else kinds[type(value)]
    message = f"select, drop and set need an object as the step's input, and it is {found}; use value instead"
    raise StepFailure("InvalidInput", message, final=True)


def _tree(paths: Iterable[str], compiler: Compiler) -> Paths:
    """``["a", "b.c", "b.d"]`` as ``{"a": None, "b": {"c": None, "d": None}}``; a whole value covers its parts."""
    root: Paths = {}
    for index, path in enumerate(paths):
        *parents, leaf = path.split(".")
        if not all((*parents, leaf)):
            compiler.refuse(f"{path!r} has an empty part; a path is names with dots between", f"[{index}]")
            continue
        node: Paths | None = root
        for name in parents:
            node = None if node is None else node.setdefault(name, {})
        if node is not None:
            node[leaf] = None
    return root


def _selector(tree: Paths) -> Stage:
    if any(tree.values()):
        return lambda value: _select(value, tree)
    names = tuple(tree)
    if len(names) == 1:
        name = names[0]
        return lambda value: {name: value[name]} if name in value else {}
    return lambda value: {name: value[name] for name in names if name in value}


def _select(value: JsonObject, tree: Paths) -> JsonObject:
    selected: JsonObject = {}
    for name, below in tree.items():
        if name not in value:
            continue
        child = value[name]
        if below is None:
            selected[name] = child
        elif isinstance(child, dict) and (part := _select(child, below)):
            selected[name] = part
    return selected


def _dropper(tree: Paths) -> Stage:
    return lambda value: _drop(value, tree)


def _drop(value: JsonObject, tree: Paths) -> JsonObject:
    kept = {name: child for name, child in value.items() if tree.get(name, tree) is not None}
    for name, below in tree.items():
        if below and isinstance(child := kept.get(name), dict):
            kept[name] = _drop(child, below)
    return kept
