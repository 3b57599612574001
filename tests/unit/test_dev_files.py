"""Which files `stepwell dev` reads, and when a change counts."""

from __future__ import annotations

from pathlib import Path

from stepwell_cli.dev.files import Changes, Signature, Watch, signatures


def signature(content: int) -> Signature:
    return Signature(content, content, content, 1, content)


class Disk:
    """A watch over files that are numbers."""

    def __init__(self, **files: int) -> None:
        self.files = files
        self.watch = Watch(lambda: {name: signature(content) for name, content in self.files.items()})

    def look(self, **files: int) -> Changes:
        self.files = files
        return self.watch.changes()


def test_the_first_look_takes_what_is_there() -> None:
    assert Disk().look(a=1, b=1) == Changes(frozenset("ab"))


def test_nothing_changed() -> None:
    disk = Disk()
    disk.look(a=1)
    assert disk.look(a=1) == Changes()


def test_a_change_counts_once_it_stood_still_for_a_look() -> None:
    disk = Disk()
    disk.look(a=1)
    assert disk.look(a=2) == Changes(unsettled=True)
    assert disk.look(a=3, b=1) == Changes(unsettled=True)
    assert disk.look(a=3, b=2) == Changes(frozenset("a"), unsettled=True)
    assert disk.look(a=3, b=2) == Changes(frozenset("b"))
    assert disk.look(a=3, b=2) == Changes()


def test_a_file_that_comes_back_at_once_was_never_gone() -> None:
    disk = Disk()
    disk.look(a=1)
    assert disk.look() == Changes(unsettled=True)
    assert disk.look(a=2) == Changes(unsettled=True)
    assert disk.look(a=2) == Changes(frozenset("a"))


def test_a_file_that_stays_away_is_gone_once() -> None:
    disk = Disk()
    disk.look(a=1, b=1)
    disk.look(b=1)
    assert disk.look(b=1) == Changes(gone=frozenset("a"))
    assert disk.look(b=1) == Changes()


def test_which_files(tmp_path: Path) -> None:
    wanted = ["a.yaml", "b.yml", "deep/er/c.yaml"]
    others = ["d.json", ".hidden.yaml", ".stepwell/e.yaml", "node_modules/f.yaml", "x/vendor/g.yaml", ".git/h.yml"]
    for name in wanted + others:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("{}")
    (tmp_path / "dangling.yaml").symlink_to("nowhere")
    assert sorted(signatures([tmp_path])) == [str(tmp_path / name) for name in wanted]


def test_what_is_named_is_read_whatever_it_is_called_and_once(tmp_path: Path) -> None:
    odd = tmp_path / ".secrets"
    odd.write_text("{}")
    (tmp_path / "link.yaml").symlink_to(odd)
    assert list(signatures([odd, tmp_path, tmp_path / "gone"])) == [str(odd)]
