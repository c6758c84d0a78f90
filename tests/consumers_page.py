"""The code blocks of docs/consumers.md."""

import re
from collections.abc import Mapping
from pathlib import Path

PAGE = Path(__file__).parents[1] / "docs" / "consumers.md"


def _blocks(text: str) -> dict[str, dict[str, str]]:
    """Title of a section -> language -> the section's code in it."""
    found: dict[str, dict[str, str]] = {}
    for section in re.split(r"^#+ (?=.+\n\n)", text, flags=re.MULTILINE)[1:]:
        title, _, rest = section.partition("\n")
        for language, code in re.findall(r"^```(\w+)\n(.*?)^```$", rest, re.MULTILINE | re.DOTALL):
            languages = found.setdefault(title, {})
            languages[language] = languages.get(language, "") + code
    return found


BLOCKS: Mapping[str, Mapping[str, str]] = _blocks(PAGE.read_text(encoding="utf-8"))


def block(title: str, language: str) -> str:
    """The code in this language below this title."""
    return BLOCKS[title][language]
