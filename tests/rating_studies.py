"""Studies that tests make: one that is worked out by hand, and small ones of hostile or plain tags."""

import datetime
from collections.abc import Mapping, Sequence
from pathlib import Path

from socialtag_jax.rating.candidates import Source
from socialtag_jax.rating.study import Answer, Study
from socialtag_jax.rating.study_file import Origin, StudyPhoto, StudyTag, write_study

ORIGIN = Origin("holiday.tagger", "b" * 64, "holiday/1.0.0", "d" * 64, "test", 0, 0.3, 15)

# Of each photo: the tags that were shown, who named which, and which each rater marked.
WORKED: Sequence[tuple[str, Mapping[Source, str], Mapping[str, str]]] = (
    (
        "abcde",
        {Source.PREDICTED: "abcd", Source.TRUE: "ae", Source.POPULAR: "b", Source.RANDOM: "e"},
        {"Ada": "abe", "Ben": "ae"},
    ),
    (
        "afgh",
        {Source.PREDICTED: "af", Source.TRUE: "f", Source.POPULAR: "g", Source.RANDOM: "h"},
        {"Ada": "f"},
    ),
    (
        "abcd",
        {Source.PREDICTED: "abc", Source.TRUE: "d", Source.POPULAR: "a", Source.RANDOM: "b"},
        {"Ada": "", "Ben": ""},
    ),
    (
        "abc",
        {Source.PREDICTED: "", Source.TRUE: "a", Source.POPULAR: "b", Source.RANDOM: "c"},
        {"Ada": "a"},
    ),
    (
        "abc",
        {Source.PREDICTED: "ab", Source.TRUE: "a", Source.POPULAR: "a", Source.RANDOM: "c"},
        {"Ada": "ab", "Ben": "ab"},
    ),
)


def clock() -> datetime.datetime:
    """The same time for ever."""
    return datetime.datetime(2026, 11, 26, 12, 0, tzinfo=datetime.UTC)


def write_plain(path: Path, photos: Sequence[Sequence[str]]) -> Path:
    """A study of these display forms, all of them predicted."""
    write_study(
        path,
        ORIGIN,
        [
            StudyPhoto(record, f"{record}.jpg", [StudyTag(tag, tag, (Source.PREDICTED,), 0.5) for tag in tags])
            for record, tags in enumerate(photos)
        ],
        clock,
    )
    return path


def write_worked(path: Path) -> Path:
    """The study that is worked out by hand, with its raters' answers."""
    photos = [
        StudyPhoto(
            record,
            f"{record}.jpg",
            [
                StudyTag(tag, tag.upper(), tuple(source for source in Source if tag in named[source]), 0.5)
                for tag in shown
            ],
        )
        for record, (shown, named, _) in enumerate(WORKED)
    ]
    write_study(path, ORIGIN, photos, clock)
    with Study.open(path, clock) as study:
        raters = {name: study.join(name).id for name in ("Ada", "Ben")}
        for position, (shown, _, marks) in enumerate(WORKED):
            for name, marked in marks.items():
                fitting = tuple(shown.index(tag) for tag in marked)
                study.answer(raters[name], position, Answer(fitting, not fitting, True), after=0)
    return path
