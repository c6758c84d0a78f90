"""What the documentation has people type: the fenced blocks of its pages, and the folder that each page is read in.

A comment in a page's source says what its blocks need, and why one is not run:

    <!-- given: holiday data/holiday -->        what exists before the page's first block; see `Givens`
    <!-- server -->                             the next block serves pages until it is stopped
    <!-- not run: makes an environment -->      the next block is only parsed
"""

import itertools
import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGES = {
    str(page.relative_to(ROOT)): page
    for page in (
        *sorted((ROOT / "docs").rglob("*.md")),
        ROOT / "README.md",
        ROOT / "experiments" / "README.md",
        ROOT / "experiments" / "cloud" / "README.md",
        ROOT / "tfrecords" / "README.md",
    )
}

_BLOCK = re.compile(
    r"(?:^<!-- (?P<mark>not run|server)(?:: (?P<reason>[^>]+?))? -->\n+)?"
    r"^```(?P<language>sh|python)\n(?P<code>.*?)^```$",
    re.MULTILINE | re.DOTALL,
)
_FENCE = re.compile(r"^```(\S*)$", re.MULTILINE)
_GIVEN = re.compile(r"^<!-- given: (.+) -->$", re.MULTILINE)


@dataclass(frozen=True)
class Block:
    """A fenced block.

    Attributes:
      where: page and line.
      language: "sh" or "python".
      code: its text.
      mark: "not run", "server" or None.
      reason: why it is not run.
    """

    where: str
    language: str
    code: str
    mark: str | None
    reason: str | None

    def commands(self) -> Iterator[list[str]]:
        """The words of each command of a `sh` block, without comments."""
        for line in self.code.replace("\\\n", " ").splitlines():
            words = shlex.shlex(line, posix=True, punctuation_chars=True)
            words.whitespace_split = True
            for ends, command in itertools.groupby(words, lambda word: word in ("&&", ";")):
                if not ends:
                    yield list(command)


def blocks(name: str) -> list[Block]:
    """The `sh` and `python` blocks of a page, in order."""
    text = PAGES[name].read_text(encoding="utf-8")
    found = [
        Block(
            f"{name}:{text.count(chr(10), 0, match.start('language')) + 1}",
            match["language"],
            match["code"],
            match["mark"],
            match["reason"],
        )
        for match in _BLOCK.finditer(text)
    ]
    assert len(found) == sum(language in ("sh", "python") for language in _FENCE.findall(text)), name
    marks = re.findall(r"^<!-- (?:not run|server)", text, re.MULTILINE)
    assert len(marks) == sum(block.mark is not None for block in found), f"{name}: a mark that is no block's"
    return found


def given(name: str) -> list[str]:
    """What the page takes for granted."""
    return [word for words in _GIVEN.findall(PAGES[name].read_text(encoding="utf-8")) for word in words.split()]
