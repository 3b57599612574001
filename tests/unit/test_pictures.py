"""tools/terminal_picture.py draws what a command leaves in its terminal."""

from __future__ import annotations

import ast
import shlex
import subprocess
import sys
import xml.etree.ElementTree as ET
from typing import TYPE_CHECKING

from commands import ROOT

if TYPE_CHECKING:
    from pathlib import Path

TOOL = ROOT / "tools" / "terminal_picture.py"
#: A spinner, a line over it, a table that is drawn twice as rich's live displays are, in colours; exit code 3.
FRAMES = r"""
import os, sys
print("\x1b[?25l⠋ waiting", end="")
print("\r\x1b[2Kone\n\x1b[33mtwo, running\x1b[0m", end="")
print("\r\x1b[2K\x1b[1A\x1b[2K\x1b[1mone\x1b[0m\n\x1b[32mtwo, done\x1b[0m\n\x1b[?25h")
print(os.isatty(0), os.isatty(2), os.get_terminal_size().columns)
sys.exit(3)
"""


def usage() -> list[str]:
    """The command line in the tool's docstring, from its options on."""
    words = ast.get_docstring(ast.parse(TOOL.read_text("utf-8")))
    assert words is not None
    (line,) = [line for line in words.splitlines() if line.strip().startswith("python ")]
    return shlex.split(line)[2:]


def letters(picture: Path) -> list[str]:
    """The texts of an SVG, without empty ones."""
    texts = [each.text or "" for each in ET.parse(picture).iter("{http://www.w3.org/2000/svg}text")]
    return [text for text in texts if text.strip()]


def test_the_command_line_of_its_docstring_draws_the_last_frame(tmp_path: Path) -> None:
    picture = tmp_path / "run.svg"
    options = [
        *usage()[: usage().index("--")],
        "-o",
        str(picture),
        "--shown",
        "try",
        "--",
        sys.executable,
        "-c",
        FRAMES,
    ]
    done = subprocess.run([sys.executable, str(TOOL), *options], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (3, "", "")
    assert letters(picture) == ["try", "$\xa0", "try", "one", "two,\xa0done", "True\xa0True\xa092"]


def test_its_picture_of_the_sample_was_made_so() -> None:
    assert usage()[-2:] == ["make", "run"]
    assert ROOT / usage()[usage().index("-o") + 1] == ROOT / "docs" / "images" / "run.svg"
