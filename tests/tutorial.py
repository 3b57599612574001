"""Follows docs/tutorial.md as a reader does: pastes its blocks into terminals, and compares what is shown with what came.

After the language of a fenced block may stand the terminal that it belongs to (`first` where none is named), ``fails`` (its last
command does not end with 0) and ``ctrl-c`` (what is shown comes after Ctrl-C). Nobody waits for what runs in the other terminals.
"""

from __future__ import annotations

import os
import pty
import re
import signal
import subprocess
import termios
import threading
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from waiting import eventually_sync

if TYPE_CHECKING:
    from collections.abc import Mapping

TEXT = Path(__file__).parents[1] / "docs" / "tutorial.md"
FIRST = "first"
WORDS = frozenset({"fails", "ctrl-c"})
PATIENCE = 60.0  #: seconds that a block may take on a busy machine
SETTLED = 2.0  #: seconds that the output of a command may need to arrive after its end
FENCE = re.compile(r"^```(\w+)([^\n]*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
CONTROL = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
UNTOLD = "using `stepwell dev` in "  #: begins a line of most commands; the text speaks of it once


@dataclass(frozen=True, slots=True)
class Block:
    """A fenced block, whose first line is ``line`` of the file. ``kind``: sh, text or another language."""

    line: int
    kind: str
    words: frozenset[str]
    text: str

    @property
    def terminal(self) -> str:
        """Where it is typed or shown."""
        return next(iter(self.words - WORDS), FIRST)


def blocks(chapter: str, markdown: str | None = None) -> list[Block]:
    """The blocks below a heading of the second level."""
    text = TEXT.read_text("utf-8") if markdown is None else markdown
    begin = text.index(f"\n## {chapter}\n")
    end = text.find("\n## ", begin + 1)
    found = FENCE.finditer(text, begin, len(text) if end < 0 else end)
    return [
        Block(text.count("\n", 0, each.start(3)) + 1, each[1], frozenset(each[2].split()), each[3]) for each in found
    ]


def told(text: str) -> list[str]:
    """The lines that a reader sees of a terminal's output: without empty ones, and without the one that the text leaves out."""
    written = CONTROL.sub("", text).split("\n")
    lines = [line.rstrip("\r").rpartition("\r")[2].rstrip() for line in written]  # the last one written over the others
    return [line for line in lines if line and not line.startswith(UNTOLD)]


def agrees(shown: str, came: list[str], *, whole: bool = True) -> bool:
    """Whether the shown lines came: as the last ones and nothing between them, or else in any order among others.

    ``…`` is anything within a line, and any lines where it stands alone; spaces may be more or fewer.
    """
    lines = told(shown)
    if not whole:
        return all(any(re.fullmatch(_pattern(line), each) for each in came) for line in lines)
    parts = [r"(?:.*\n)*" if line.strip() == "…" else f"{_pattern(line)}\n" for line in lines]
    return re.fullmatch(rf"(?:.*\n)*?{''.join(parts)}", "".join(f"{each}\n" for each in came)) is not None


def _pattern(line: str) -> str:
    return r"\s*" + r"[ \t]+".join(re.escape(word).replace("…", ".*") for word in line.split())


class Terminal:
    """A shell that writes to a terminal, whose commands read nothing."""

    def __init__(self, folder: Path, scratch: Path, environment: Mapping[str, str]) -> None:
        scratch.mkdir(parents=True)
        self._scratch = scratch
        self._ended: list[Path] = []
        self._output = b""
        self._seen = 0
        outside, inside = pty.openpty()
        termios.tcsetwinsize(inside, (50, 160))
        self._shell = subprocess.Popen(
            ["bash", "--noprofile", "--norc"],
            cwd=folder,
            env=dict(environment),
            stdin=subprocess.PIPE,
            stdout=inside,
            stderr=inside,
            start_new_session=True,
        )
        os.close(inside)
        self._reader = threading.Thread(target=self._read, args=(outside,), daemon=True)
        self._reader.start()
        self._type(f"trap 'echo \"$BASH_COMMAND\" >>{scratch}/failed' ERR")

    def paste(self, text: str) -> None:
        """Type a block."""
        script = self._scratch / f"{len(self._ended)}.sh"
        script.write_text(text)
        ended = script.with_suffix(".ended")
        self._ended.append(ended)
        self._type(f". {script} </dev/null; echo $? >{ended}.part; mv {ended}.part {ended}")

    def code(self) -> int:
        """The exit code of the last block, once that has ended."""
        eventually_sync(self._ended[-1].exists, PATIENCE)
        return int(self._ended[-1].read_text())

    def failed(self) -> list[str]:
        """The commands that have failed since this was asked last."""
        file = self._scratch / "failed"
        found = file.read_text().splitlines() if file.exists() else []
        file.unlink(missing_ok=True)
        return found

    def came(self) -> list[str]:
        """What was written since `turn`."""
        return told(self._output[self._seen :].decode("utf-8", "replace"))

    def everything(self) -> list[str]:
        """What was written since its start."""
        return told(self._output.decode("utf-8", "replace"))

    def turn(self) -> None:
        """What came until now was seen."""
        self._seen = len(self._output)

    def close(self) -> None:
        """End the shell, and what it started."""
        with suppress(ProcessLookupError):
            os.killpg(self._shell.pid, signal.SIGKILL)
        self._shell.communicate()
        self._reader.join(PATIENCE)

    def _type(self, line: str) -> None:
        assert self._shell.stdin is not None
        self._shell.stdin.write(f"{line}\n".encode())
        self._shell.stdin.flush()

    def _read(self, outside: int) -> None:
        with suppress(OSError):  # nobody has the other end any more
            while read := os.read(outside, 65536):
                self._output += read
        os.close(outside)


@dataclass
class Reader:
    """Pastes blocks and looks at what they show. ``instead`` maps what stands in the text to what stands in for it here (ports);
    ``elsewhere`` are commands that take more than a test has: they and what they show are passed over.
    """

    folder: Path
    scratch: Path
    environment: Mapping[str, str]
    instead: Mapping[str, str] = field(default_factory=dict)
    elsewhere: frozenset[str] = frozenset()
    _terminals: dict[str, Terminal] = field(default_factory=dict)

    def follow(self, chapter: list[Block]) -> None:
        """From the first block to the last. Raises AssertionError with the line of the one that shows something else."""
        typed = [number for number, block in enumerate(chapter) if block.kind == "sh"]
        for number, following in zip(typed, [*typed[1:], len(chapter)], strict=True):
            if chapter[number].text.strip() not in self.elsewhere:
                self._step(chapter[number], [each for each in chapter[number + 1 : following] if each.kind == "text"])

    def terminal(self, name: str) -> Terminal:
        """A terminal, opened in the folder when it is first needed."""
        if name not in self._terminals:
            self._terminals[name] = Terminal(self.folder, self.scratch / name, self.environment)
        return self._terminals[name]

    def close(self) -> None:
        """End all terminals."""
        for terminal in self._terminals.values():
            terminal.close()

    def _step(self, typed: Block, shown: list[Block]) -> None:
        terminal = self.terminal(typed.terminal)
        if typed.terminal == FIRST:
            terminal.turn()
        terminal.paste(self._here(typed.text))
        if typed.terminal == FIRST:
            self._ended(typed, terminal)
            if all(block.terminal != FIRST for block in shown):
                assert terminal.came() == [], f"{TEXT}:{typed.line}: it does not show this"
        for block in shown:
            self._look(block)

    def _ended(self, typed: Block, terminal: Terminal) -> None:
        try:
            code = terminal.code()
        except AssertionError:
            came = "\n".join(terminal.came())
            raise AssertionError(f"{TEXT}:{typed.line}: it has not ended after {PATIENCE:g} s:\n{came}") from None
        failed = terminal.failed()
        said = f"{TEXT}:{typed.line}: exit code {code}, {failed}:\n" + "\n".join(terminal.came())
        if "fails" in typed.words:
            assert (code != 0, len(failed)) == (True, 2), said  # the last command, and so the block
        else:
            assert (code, failed) == (0, []), said

    def _look(self, block: Block) -> None:
        terminal = self.terminal(block.terminal)
        first, shown = block.terminal == FIRST, self._here(block.text)
        if "ctrl-c" in block.words:
            self._interrupt()
        try:
            eventually_sync(lambda: agrees(shown, terminal.came(), whole=first), SETTLED if first else PATIENCE)
        except AssertionError:
            came = "\n".join(terminal.came())
            raise AssertionError(f"{TEXT}:{block.line}: it shows\n{shown}\nbut this came:\n{came}") from None
        if not first:
            terminal.turn()

    def _interrupt(self) -> None:
        (process,) = self.folder.parent.glob("*/.stepwell/dev.pid")
        os.kill(int(process.read_text()), signal.SIGINT)

    def _here(self, text: str) -> str:
        for there, here in self.instead.items():
            text = text.replace(there, here)
        return text
