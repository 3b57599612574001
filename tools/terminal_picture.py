"""Runs a command in a terminal of its own and draws what stands there at its end as an SVG, colours included.

    python tools/terminal_picture.py --columns 92 -o docs/images/run.svg -- make run

The command's exit code is this one's. Linux or macOS; of libraries only rich is needed, which stepwell has anyway.
"""

# ruff: noqa: INP001 - a script, not a package

from __future__ import annotations

import argparse
import fcntl
import io
import os
import pty
import re
import shlex
import struct
import subprocess
import sys
import termios
from pathlib import Path

from rich.ansi import AnsiDecoder
from rich.console import Console
from rich.terminal_theme import TerminalTheme
from rich.text import Text

ROWS = 60
#: A movement of the cursor, or what a frame of rich's live displays does before the next one is drawn.
MOVES = re.compile(r"(\r\n|\r|\n|\x1b\[2K|\x1b\[1A|\x1b\[\?25[lh])")
#: Readable on white and on black pages: the window brings its own ground. (ground, letters, the eight colours, bright ones)
THEME = TerminalTheme(
    (22, 27, 34), (214, 221, 229),
    [(72, 79, 88), (255, 123, 114), (87, 200, 104), (222, 170, 60), (110, 174, 255), (200, 150, 255), (78, 201, 214), (177, 186, 196)],
    [(110, 118, 129), (255, 161, 152), (86, 211, 100), (227, 179, 65), (121, 192, 255), (210, 168, 255), (86, 212, 221), (240, 246, 252)],
)  # fmt: skip
#: rich's own, less the fonts from the net (a page does not load them for a picture) and with names of common ones.
FORM = """<svg viewBox="0 0 {width} {height}" width="{width}" height="{height}" xmlns="http://www.w3.org/2000/svg">
<style>
.{unique_id}-matrix {{ font-family: ui-monospace, "SF Mono", Menlo, Consolas, "DejaVu Sans Mono", monospace; font-size: {char_height}px; line-height: {line_height}px }}
.{unique_id}-title {{ font-size: 17px; font-family: system-ui, "DejaVu Sans", sans-serif }}
{styles}
</style>
<defs><clipPath id="{unique_id}-clip-terminal"><rect width="{terminal_width}" height="{terminal_height}"/></clipPath>
{lines}</defs>
{chrome}
<g transform="translate({terminal_x}, {terminal_y})" clip-path="url(#{unique_id}-clip-terminal)">
{backgrounds}
<g class="{unique_id}-matrix">
{matrix}
</g>
</g>
</svg>
"""


def run(command: list[str], columns: int) -> tuple[int, str]:
    """The exit code, and all that was written to the terminal."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", ROWS, columns, 0, 0))
    env = {name: value for name, value in os.environ.items() if name not in {"NO_COLOR", "COLUMNS", "LINES"}}
    env["TERM"] = "xterm-256color"
    with subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs, env=env) as process:  # noqa: S603
        os.close(theirs)
        written = bytearray()
        while part := _read(ours):
            written += part
    os.close(ours)
    return process.returncode, written.decode("utf-8", "replace")


def _read(terminal: int) -> bytes:
    try:
        return os.read(terminal, 65536)
    except OSError:  # Linux says so where the other end is closed
        return b""


def screen(written: str) -> list[str]:
    """The lines that are left: a frame goes back to its first line, line by line, erasing them."""
    lines = [""]
    for part in MOVES.split(written):
        if part in {"\r\n", "\n"}:
            lines.append("")
        elif part == "\x1b[1A" and len(lines) > 1:
            lines.pop()
        elif part == "\x1b[2K":
            lines[-1] = ""
        elif not MOVES.fullmatch(part):
            lines[-1] += part
    while lines and not lines[-1].strip():
        lines.pop()
    return lines


def picture(command: str, lines: list[str], columns: int) -> str:
    """The SVG of a window with a prompt, the command and these lines."""
    console = Console(
        width=columns, record=True, file=io.StringIO(), force_terminal=True, color_system="truecolor", highlight=False
    )
    console.print(Text.assemble(("$ ", "green"), (command, "bold")))
    decoder = AnsiDecoder()
    for line in lines:
        console.print(decoder.decode_line(line), no_wrap=True, crop=True)
    return console.export_svg(title=command, theme=THEME, code_format=FORM, unique_id="terminal")


def main() -> int:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--columns", type=int, default=92, help="of the terminal")
    parser.add_argument("--shown", help="what stands after the prompt; default: the command")
    parser.add_argument("-o", "--output", type=Path, help="default: stdout")
    parser.add_argument("command", nargs="+", help="after --")
    given = parser.parse_args()
    code, written = run(given.command, given.columns)
    svg = picture(given.shown or shlex.join(given.command), screen(written), given.columns)
    if given.output is None:
        sys.stdout.write(svg)
    else:
        given.output.write_text(svg, "utf-8")
    return code


if __name__ == "__main__":
    sys.exit(main())
