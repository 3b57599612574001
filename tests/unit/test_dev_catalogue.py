"""What a folder's manifests mean together, and what that asks of the database."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from stepwell_cli.dev.catalogue import Catalogue
from stepwell_cli.dev.plan import GRACE, Identity, Planner, wanted
from stepwell_cli.dev.sift import Loaded, load

if TYPE_CHECKING:
    from pathlib import Path

SECRET = "apiVersion: v1\nkind: Secret\nmetadata: {name: api%s}\nstringData: {token: %s}\n"
LABEL = ', labels: {stepwell.dev/use: "true"}'


def workflows(*names: str, value: str = "one") -> str:
    return "---\n".join(
        f"apiVersion: stepwell.dev/v1alpha1\nkind: Workflow\nmetadata: {{name: {name}}}\n"
        f"spec: {{steps: [{{name: say, transform: {{value: {value}}}}}]}}\n"
        for name in names
    )


class Folder:
    """Manifests by name; ``write`` and ``remove`` tell the catalogue."""

    def __init__(self, place: Path, *favoured: str) -> None:
        self.place = place
        self.catalogue = Catalogue([str(place / name) for name in favoured])

    def load(self, name: str, text: str) -> Loaded:
        (self.place / name).write_text(text)
        return load(str(self.place / name), given=name == "given")

    def write(self, gone: str = "", **texts: str) -> None:
        loaded = {str(self.place / name): self.load(name, text) for name, text in texts.items()}
        self.catalogue.update(loaded, [str(self.place / name) for name in gone.split()])

    @property
    def names(self) -> dict[str, str]:
        prefix = f"{self.place}/"
        return {d.name: d.file.removeprefix(prefix) for d in self.catalogue.documents}

    @property
    def bad(self) -> list[str]:
        prefix = f"{self.place}/"
        return [str(p).replace(prefix, "") for problems in self.catalogue.bad.values() for p in problems]


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return Folder(tmp_path)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "services: {web: {image: nginx}}",
        "{{ if .Values.x }}\nkind: Secret\n",
        "apiVersion: v1\nkind: ConfigMap\ndata:\n  flow: |\n    apiVersion: stepwell.dev/v1alpha1\n    kind: Workflow\n",
        "apiVersion: apps/v1\nkind: Deployment\nmetadata: {annotations: {stepwell.dev/note: x}}\n",
        "apiVersion: v1\nkind: Secret\nmetadata: {name: theirs}\ndata: {token: <put it here>}\n",
        "[1, 2",
    ],
)
def test_what_is_not_meant_for_stepwell_is_passed_over(folder: Folder, text: str) -> None:
    assert folder.load("x.yaml", text) == Loaded()


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (workflows("x").replace("steps", "stops"), "a:4: spec.steps: is required, but not set"),
        (workflows("x") + "  bad: [\n", "a:5: "),
        (workflows("x", "x"), "a:8: metadata.name: Workflow default/x stands already at a:1; keep one"),
        (workflows("x") + "---\nkind: ConfigMap\napiVersion: v1\n", "a:6: kind: kind 'ConfigMap' of apiVersion 'v1'"),
        ('{"apiVersion": "stepwell.dev/v1alpha1", "kind": "Workflow", }}', "a:1: "),
        ((SECRET % (LABEL, "x")).replace("stringData", "data"), "a:4: data.token: is not Base64"),
    ],
)
def test_what_is_meant_for_it_and_bad_is_shown(folder: Folder, text: str, problem: str) -> None:
    folder.write(a=text)
    assert folder.bad[0].startswith(problem)
    assert not folder.names


def test_the_last_good_version_counts_until_the_next(folder: Folder) -> None:
    folder.write(a=workflows("x", "w"))
    folder.write(a=workflows("x").replace("steps", "stops"))
    assert folder.names == {"x": "a", "w": "a"}
    folder.write(a=workflows("z"))
    assert (folder.names, folder.bad) == ({"z": "a"}, [])
    folder.write(gone="a")
    assert folder.names == {}


def test_of_two_with_one_name_the_newer_is_bad_until_the_other_goes(folder: Folder) -> None:
    folder.write(b=workflows("x"))
    folder.write(a=workflows("x", "w"))
    assert folder.bad == ["a:3: metadata.name: Workflow default/x stands already at b:1; keep one"]
    assert folder.names == {"x": "b"}
    folder.write(gone="b")
    assert (folder.names, folder.bad) == ({"x": "a", "w": "a"}, [])


def test_workflows_that_change_places_in_one_go(folder: Folder) -> None:
    folder.write(a=workflows("x"), b=workflows("w"))
    folder.write(a=workflows("w"), b=workflows("x"))
    assert (folder.names, folder.bad) == ({"x": "b", "w": "a"}, [])


def test_a_workflow_that_moved_is_not_held_by_what_its_old_file_once_was(folder: Folder) -> None:
    folder.write(a=workflows("x"))
    folder.write(a="apiVersion: stepwell.dev/v1\n", b=workflows("x"))
    assert folder.names == {"x": "b"}


def test_secrets_given_by_option_stand_in_for_others(tmp_path: Path) -> None:
    folder = Folder(tmp_path, "given")
    folder.write(given=SECRET % (LABEL, "given"), a=SECRET % (LABEL, "found"), b=workflows("x"))
    assert folder.bad == []
    assert [d.raw["stringData"] for d in folder.catalogue.documents if d.kind == "Secret"][-1] == {"token": "given"}
    folder.write(given="a: [1")  # and so does what was read of it last
    assert folder.bad
    assert [d.raw["stringData"] for d in folder.catalogue.documents if d.kind == "Secret"][-1] == {"token": "given"}


@pytest.mark.parametrize("text", ["a: [1", "kind: Secret\nstringData: {token: x", SECRET % ("", "5")])
def test_a_file_given_for_its_secrets_is_never_passed_over(tmp_path: Path, text: str) -> None:
    path = tmp_path / "given.yaml"
    path.write_text(text)
    assert load(str(path), given=True).problems
    assert not load(str(path)).problems


def test_a_labelled_secret_that_cannot_be_parsed_is_bad_and_the_last_good_one_counts(folder: Folder) -> None:
    whole = SECRET % (LABEL, "good")
    folder.write(a=whole)
    folder.write(a=whole.rstrip("}\n"))
    assert folder.bad[0].startswith("a:")
    assert [d.raw["stringData"] for d in folder.catalogue.documents] == [{"token": "good"}]


# -- the plan ------------------------------------------------------------------------------------------------------------

X, W = Identity("default", "x"), Identity("default", "w")


def test_what_differs_is_applied_in_the_order_of_the_files(folder: Folder) -> None:
    folder.write(a=workflows("w"), b=workflows("x"))
    asked = wanted(folder.catalogue.documents)
    assert [item.document.name for item in Planner().plan(asked, {}, (), 0).apply] == ["w", "x"]
    assert Planner().plan(asked, {name: item.hash for name, item in asked.items()}, (), 0).apply == ()


def test_what_is_missed_is_withdrawn_after_a_while(folder: Folder) -> None:
    planner = Planner()
    first = planner.plan({}, {X: b""}, (), 10)
    assert (first.withdraw, first.waiting) == ((), True)
    second = planner.plan({}, {X: b"", W: b""}, (), 10 + GRACE)
    assert (second.withdraw, second.waiting) == ((X,), True)
    folder.write(a=workflows("w"))
    back = planner.plan(wanted(folder.catalogue.documents), {W: b""}, (), 10 + 2 * GRACE)
    assert (back.withdraw, back.waiting) == ((), False)
    assert planner.plan({}, {W: b""}, (), 10 + 3 * GRACE).withdraw == ()


def test_nothing_is_withdrawn_while_a_manifest_is_bad() -> None:
    planner = Planner()
    planner.plan({}, {X: b""}, ["a"], 0)
    held = planner.plan({}, {X: b""}, ["a"], GRACE)
    assert (held.withdraw, held.held, held.waiting) == ((), (X,), False)
    assert planner.plan({}, {X: b""}, (), GRACE).withdraw == (X,)
