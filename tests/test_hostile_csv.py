"""CSV files of every odd, broken and hostile kind: the photos and tags that they mean, or an error that names the row.

The ordinary mistakes are in test_tags_csv.py.
"""

import gzip
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from socialtag_jax.errors import UsageError, UserError
from socialtag_jax.labels import build_vocabulary
from socialtag_jax.sources import SourceOptions, tags_csv
from socialtag_jax.sources import read as read_source
from socialtag_jax.tags import LONGEST_TAG, TagVocabulary
from tests.attempts import attempt
from tests.conftest import Socialtag
from tests.photos import colour_rows, photo_folder

Rows = list[tuple[str, tuple[str, ...]]]
SEA: Rows = [("a.jpg", ("sea",))]


@dataclass(frozen=True)
class Case:
    """A CSV file.

    Attributes:
      name: for people.
      data: its content.
      expected: (image id, tags as found) of each photo, or part of the error as a regular expression.
      warning: part of the one warning that there is.
    """

    name: str
    data: bytes
    expected: Rows | str
    warning: str | None = None


def text(name: str, content: str, expected: Rows | str, warning: str | None = None) -> Case:
    return Case(name, content.encode(), expected, warning)


ROW = "path,tags\na.jpg,sea\n"
ENCODINGS = [
    text("UTF-8", ROW, SEA),
    Case("UTF-8 with a mark", ROW.encode("utf-8-sig"), SEA),
    Case("UTF-16 LE with a mark", b"\xff\xfe" + ROW.encode("utf-16-le"), SEA),
    Case("UTF-16 BE with a mark", b"\xfe\xff" + ROW.encode("utf-16-be"), SEA),
    Case("UTF-16 LE without a mark", ROW.encode("utf-16-le"), "row 1: NUL character"),
    Case("UTF-16 BE without a mark", ROW.encode("utf-16-be"), "row 1: NUL character"),
    Case("UTF-32", ROW.encode("utf-32"), "row 1: NUL character"),
    Case("UTF-16 that is cut", ROW.encode("utf-16")[:-1], "not UTF-16 text"),
    Case("UTF-16 with half a pair", b"\xff\xfe" + ROW.encode("utf-16-le") + b"\x00\xd8", "not UTF-16 text"),
    Case("Latin-1", "a.jpg,café\n".encode("latin-1"), r"row 1: not UTF-8 text at byte offset 9 \(0xe9\)"),
    Case("Windows-1252", "a.jpg,“sea”\n".encode("cp1252"), r"not UTF-8 text at byte offset 6 \(0x93\)"),
    Case("Shift JIS", "a.jpg,海\n".encode("shift-jis"), "not UTF-8 text at byte offset 6"),
    Case("Mac Roman", "a.jpg,é\n".encode("mac-roman"), "not UTF-8 text at byte offset 6"),
    Case("overlong slash", b"..\xc0\xafa.jpg,sea\n", "not UTF-8 text at byte offset 2"),
    Case("a surrogate in UTF-8", b"a.jpg,\xed\xa0\x80\n", "not UTF-8 text at byte offset 6"),
    Case("beyond Unicode", b"a.jpg,\xf4\x90\x80\x80\n", "not UTF-8 text at byte offset 6"),
    Case("a mark and nothing", b"\xef\xbb\xbf", "the file has no rows"),
    Case("half a mark", b"\xef\xbb", "the file has no rows"),
    Case("two marks", b"\xef\xbb\xbf\xef\xbb\xbfpath,tags\na.jpg,sea\n", "no path column"),
    Case("compressed", gzip.compress(ROW.encode()), "not UTF-8 text|NUL character"),
    Case("a photo", b"\xff\xd8\xff\xe0\x00\x10JFIF\x00" + bytes(50), "not UTF-8 text|NUL character"),
    Case("zeros", bytes(1000), "row 1: NUL character at column 1"),
    Case("a NUL in a path", b"path,tags\na.jpg\0.png,sea\n", "row 2: NUL character at column 6"),
    Case("old Mac line ends", ROW.replace("\n", "\r").encode(), SEA),
    Case("Windows line ends", ROW.replace("\n", "\r\n").encode(), SEA),
    Case("mixed line ends", b"path,tags\ra.jpg,sea\r\nb.jpg,sky\n", [*SEA, ("b.jpg", ("sky",))]),
    text("blank lines alone", "\n\r\n\n", "the file has no rows"),
]
CONTROLS = [
    text("escape in a tag", "a.jpg,\x1b[31msea\n", [("a.jpg", ("\x1b[31msea",))]),
    text("bell and backspace", "a.jpg,s\x07e\x08a\n", [("a.jpg", ("s\x07e\x08a",))]),
    text("delete", "a.jpg,sea\x7f\n", [("a.jpg", ("sea\x7f",))]),
    text("vertical tab and form feed part tags", "a.jpg,sea\x0bsky\x0csun\n", [("a.jpg", ("sea", "sky", "sun"))]),
    text("separators of Unicode part tags", "a.jpg,sea\u2028sky\u2029sun\x85moon\u3000lake\n", [
        ("a.jpg", ("sea", "sky", "sun", "moon", "lake"))
    ]),
    text("end-of-file mark of DOS", "a.jpg,sea\n\x1a", "row 2: 1 cell, expected 2"),
    text("a tab in a path", '"a\tb.jpg",sea\n', [("a\tb.jpg", ("sea",))]),
    text("a line end in a path", '"a\nb.jpg",sea\n', [("a\nb.jpg", ("sea",))]),
]  # fmt: skip
QUOTES = [
    text("never closed", 'a.jpg,"sea\n' * 1, "row 1: the row is not valid CSV"),
    text("never closed, long", 'a.jpg,"sea\n' + "b.jpg,sky\n" * 1000, "row 1: the row is not valid CSV"),
    text("text behind", 'a.jpg,"sea" sky\n', "row 1: the row is not valid CSV"),
    text("doubled", 'a.jpg,"se""a"\n', [("a.jpg", ('se"a',))]),
    text("in the middle", 'a.jpg,se"a\n', [("a.jpg", ('se"a',))]),
    text("curly", "a.jpg,“sea”\n", [("a.jpg", ("“sea”",))]),
    text("single", "a.jpg,'sea'\n", [("a.jpg", ("'sea'",))]),
    text("backslash does not escape", 'a.jpg,"se\\"a"\n', "row 1: the row is not valid CSV"),
    text("empty ones", '"",""\n', "the file has no rows"),
    text("formula", "a.jpg,=cmd|'/C calc'!A0\n", [("a.jpg", ("=cmd|'/C", "calc'!A0"))]),
    text("script", "a.jpg,<script>alert(1)</script>\n", [("a.jpg", ("<script>alert(1)</script>",))]),
    text("SQL", "a.jpg,');DROP TABLE tags;--\n", [("a.jpg", ("');DROP", "TABLE", "tags;--"))], "commas or semicolons"),
]
SIZES = [
    text("10 MB tag", f"a.jpg,{'x' * 10_000_000}\n", [("a.jpg", ())], "more than 1,000 characters are dropped: 1, "),
    text("10 MB tag of emoji", f"a.jpg,sea {'😀' * 2_500_000}\n", SEA, "more than 1,000 characters are dropped"),
    text("longest tag", f"a.jpg,{'x' * LONGEST_TAG}\n", [("a.jpg", ("x" * LONGEST_TAG,))]),
    text("a cell over 16 million", f"a.jpg,{'x' * (2**24 + 1)}\n", "row 1: the row is not valid CSV: field larger"),
    text("a path of 10 MB", f"{'x' * 10_000_000},sea\n", [("x" * 10_000_000, ("sea",))]),
    text("100,000 tags", f"a.jpg,{' '.join(map(str, range(100_000)))}\n", [("a.jpg", (*map(str, range(100_000)),))]),
    text("100,000 cells", "a.jpg" + ",sea" * 100_000 + "\n", "row 1: 100001 cells and no header"),
    text("100,000 columns", "path,tags" + ",x" * 100_000 + "\n", "the column 'x' stands twice"),
]
SCRIPTS = [
    text("Hebrew and Arabic", "a.jpg,ים שاطئ\n", [("a.jpg", ("ים", "שاطئ"))]),
    text("emoji", "a.jpg,👩‍👧 🏖️ 🇨🇭\n", [("a.jpg", ("👩‍👧", "🏖️", "🇨🇭"))]),
    text("right-to-left override", "gpj.\u202eexe,sea\n", [("gpj.\u202eexe", ("sea",))]),
    text(
        "two writings of é", "e\u0301.jpg,sea\n\u00e9.jpg,sky\n", [("e\u0301.jpg", ("sea",)), ("\u00e9.jpg", ("sky",))]
    ),
    text("upper and lower case", "a.jpg,sea\nA.JPG,sky\n", [*SEA, ("A.JPG", ("sky",))]),
    text("other white space around a path", "\u3000a.jpg\u00a0,sea\n", SEA),
    text("zero-width spaces", "a.jpg,s\u200bea \u200b\n", [("a.jpg", ("s\u200bea", "\u200b"))]),
    text("combining marks", f"a.jpg,z{chr(0x0301) * 500}\n", [("a.jpg", ("z" + "\u0301" * 500,))]),
    text("twice", "a.jpg,sea\n./a.jpg,sky\nx/../a.jpg,sun\n", [("a.jpg", ("sea", "sky", "sun"))], "merged 2 rows"),
]
OUT = "leads to no file below"
PATHS = [
    text("from the root", "/etc/passwd,sea\n", OUT),
    text("up", "../a.jpg,sea\n", OUT),
    text("up from below", "x/../../a.jpg,sea\n", OUT),
    text("up with backslashes", "..\\..\\a.jpg,sea\n", OUT),
    text("up and back", "../../../../../../../../../../etc/passwd,sea\n", OUT),
    text("a drive", "C:\\Windows\\a.jpg,sea\n", OUT),
    text("a drive with slashes", "c:/a.jpg,sea\n", OUT),
    text("a share", "\\\\server\\share\\a.jpg,sea\n", OUT),
    text("many slashes", "////etc/passwd,sea\n", OUT),
    text("the folder itself", ".,sea\nb.jpg,sky\n", OUT),
    text("the parent", "..,sea\nb.jpg,sky\n", OUT),
    text("nothing", '"  ",sea\n', "the path cell is empty"),
    # Texts that mean something elsewhere are names of files here, which are not there.
    text("home", "~/a.jpg,sea\n", [("~/a.jpg", ("sea",))]),
    text("a variable", "$HOME/a.jpg,sea\n", [("$HOME/a.jpg", ("sea",))]),
    text("an address", "https://example.org/a.jpg,sea\n", [("https:/example.org/a.jpg", ("sea",))]),
    text("a file's address", "file:///etc/passwd,sea\n", [("file:/etc/passwd", ("sea",))]),
    text("escaped dots", "%2e%2e/a.jpg,sea\n", [("%2e%2e/a.jpg", ("sea",))]),
    text("three dots", ".../a.jpg,sea\n", [(".../a.jpg", ("sea",))]),
]
CASES = [*ENCODINGS, *CONTROLS, *QUOTES, *SIZES, *SCRIPTS, *PATHS]


def content(photos: list) -> Rows:
    return [(photo.image_id, photo.tags) for photo in photos]


def test_there_are_enough():
    assert len(CASES) >= 75
    assert len({case.name for case in CASES}) == len(CASES)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_meant_or_refused(case: Case, tmp_path: Path):
    path = tmp_path / "tags.csv"
    path.write_bytes(case.data)
    warnings: list[str] = []
    if isinstance(case.expected, str):
        with pytest.raises(UserError, match=case.expected) as caught:
            tags_csv.read(path, warn=warnings.append)
        assert str(path) in str(caught.value.where)
        assert len(str(caught.value)) < 1000
        return
    photos = tags_csv.read(path, warn=warnings.append)
    assert content(photos) == case.expected
    assert [photo.path for photo in photos] == [tmp_path / photo.image_id for photo in photos]
    # Whatever the tags are, they become clean ones.
    vocabulary = build_vocabulary(photo.tags for photo in photos)
    assert all(tag.isprintable() or "\u200d" in tag for tag in vocabulary.tags)
    vocabulary.save(tmp_path / "tags.labels.txt")
    assert TagVocabulary.load(tmp_path / "tags.labels.txt") == vocabulary
    assert len(warnings) == (case.warning is not None)
    assert case.warning is None or case.warning in warnings[0]


@pytest.mark.parametrize(
    "make", [Path.mkdir, os.mkfifo, lambda path: path.symlink_to(path)], ids=["folder", "pipe", "loop"]
)
def test_what_is_no_file(make: Callable[[Path], object], tmp_path: Path):
    make(tmp_path / "tags.csv")
    with pytest.raises(UserError, match=r"tags\.csv: no such file"):
        tags_csv.read(tmp_path, warn=pytest.fail)


@pytest.fixture
def linked(tmp_path: Path) -> Path:
    """A folder with links to a file and to a folder outside, to inside, to itself, and to nothing."""
    outside, folder = tmp_path / "outside", tmp_path / "photos"
    for path in (outside, folder, folder / "inside"):
        path.mkdir()
    (outside / "secret.jpg").write_text("secret")
    (folder / "real.jpg").write_text("real")
    for name, target in {
        "out.jpg": outside / "secret.jpg",
        "folder": outside,
        "up.jpg": Path("../outside/secret.jpg"),
        "twice.jpg": Path("out.jpg"),
        "parent": Path(".."),
        "in.jpg": Path("real.jpg"),
        "also": Path("inside"),
        "loop.jpg": Path("loop.jpg"),
        "round": Path("round"),
        "nothing.jpg": Path("nowhere.jpg"),
        "nothing-outside.jpg": tmp_path / "nowhere.jpg",
    }.items():
        (folder / name).symlink_to(target)
    return folder


LEAVE = ["out.jpg", "folder/secret.jpg", "up.jpg", "twice.jpg", "parent/outside/secret.jpg", "nothing-outside.jpg"]
STAY = ["real.jpg", "in.jpg", "also/a.jpg", "loop.jpg", "round/a.jpg", "nothing.jpg", "folder/../real.jpg"]


@pytest.mark.parametrize("path", LEAVE)
def test_links_that_lead_out(linked: Path, path: str):
    """Those to nothing too: what is not there now may be there later."""
    (linked / "tags.csv").write_text(f"real.jpg,sea\n{path},sky\n")
    with pytest.raises(UserError, match=rf"row 2: the path '{path}' leads out of .* through a symbolic link, to "):
        tags_csv.read(linked, warn=pytest.fail)
    photos = tags_csv.read(linked, allow_outside=True, warn=pytest.fail)
    assert photos[1].path == linked / path


@pytest.mark.parametrize("path", STAY)
def test_links_that_stay(linked: Path, path: str):
    (linked / "tags.csv").write_text(f"{path},sky\n")
    assert len(tags_csv.read(linked, warn=pytest.fail)) == 1


def test_the_folder_itself_may_be_reached_through_a_link(tmp_path: Path):
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    (tmp_path / "real" / "tags.csv").write_text(f"a.jpg,sea\n{tmp_path}/link/b.jpg,sky\n{tmp_path}/real/c.jpg,sun\n")
    photos = tags_csv.read(tmp_path / "link", warn=pytest.fail)
    assert [photo.image_id for photo in photos] == ["a.jpg", "b.jpg", "c.jpg"]


def test_allowed_paths_outside_have_one_id_each(tmp_path: Path):
    """The same photo by two ways is one photo; ids do not depend on where the folder lies."""
    folder = tmp_path / "in" / "photos"
    folder.mkdir(parents=True)
    rows = ("../a.jpg", f"{tmp_path}/in/a.jpg", "x/../../a.jpg", "../../b.jpg", f"{folder}/c.jpg", "/somewhere/d.jpg")
    (folder / "tags.csv").write_text("".join(f"{row},sea\n" for row in rows))
    warnings: list[str] = []
    photos = tags_csv.read(folder, allow_outside=True, warn=warnings.append)
    ids = [photo.image_id for photo in photos]
    assert ids[:3] == ["../a.jpg", "../../b.jpg", "c.jpg"]
    assert [photo.path for photo in photos] == [
        tmp_path / "in" / "a.jpg",
        tmp_path / "b.jpg",
        folder / "c.jpg",
        Path("/somewhere/d.jpg"),
    ]
    assert len(warnings) == 1


def test_from_the_command_line(tmp_path: Path, socialtag: Socialtag):
    """Photos of one folder, listed in another: refused, and taken with --allow-outside."""
    rows = colour_rows(20)
    photo_folder(tmp_path / "photos", rows)
    (tmp_path / "lists").mkdir()
    lines = "".join(f"../photos/{name},{' '.join(tags)},{split}\n" for name, (tags, split) in rows.items())
    (tmp_path / "lists" / "tags.csv").write_text(f"path,tags,split\n{lines}")
    command = ("prepare", "--source", "tags-csv", "--input", tmp_path / "lists", "--output", tmp_path / "data")
    refused = socialtag(*command)
    assert refused.code == 1
    assert "row 2: the path '../photos/photos/000.png' leads to no file below" in refused.err
    assert "--allow-outside" in refused.err
    taken = socialtag(*command, "--allow-outside")
    assert taken.code == 0
    assert "20 photos in = 20 written + 0 rejected" in taken.err
    counted = ("stats", tmp_path / "lists", "--source", "tags-csv")
    assert socialtag(*counted).code == 1
    assert socialtag(*counted, "--allow-outside").code == 0


def test_allow_outside_is_for_csv_files():
    with pytest.raises(UsageError, match="--allow-outside: the source harrison lists no paths in a CSV file"):
        next(read_source(SourceOptions("harrison", Path(), allow_outside=True), print))


def test_names_cannot_command_the_terminal(tmp_path: Path, socialtag: Socialtag):
    """Neither in an error nor in a warning."""
    (tmp_path / "tags.csv").write_text("\x1b]0;title\x07.jpg,a;b \x1b[2J\nb.jpg,sea\n")
    result = socialtag(
        "prepare", "--source", "tags-csv", "--input", tmp_path, "--output", tmp_path / "data", "--name", "x"
    )
    assert result.code == 1
    assert not set("\x1b\x07\x9b\u202e") & set(result.err)


alphabet = st.characters(exclude_categories=("Cs",)) | st.sampled_from('",;\n\r\t\0 ./\\#\x1b\ufeff\u2028\u202e')


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.one_of(st.binary(max_size=200), st.text(alphabet, max_size=80).map(str.encode)))
@example(data=b"path,tags\n\xff")
@example(data=b'path,tags\n"')
@example(data=b"\xff\xfe")
def test_any_bytes(data: bytes, tmp_path: Path):
    """Photos inside of the folder, each once, or an error that names the file."""
    path = tmp_path / "tags.csv"
    path.write_bytes(data)
    photos, error = attempt(lambda: tags_csv.read(path, warn=lambda _: None))
    if error is not None:
        assert str(path) in str(error.where)
        return
    assert photos
    assert len({photo.image_id for photo in photos}) == len(photos)
    for photo in photos:
        assert ".." not in photo.image_id.split("/")
        assert Path(os.path.normpath(photo.path)).is_relative_to(tmp_path)
        assert photo.where.startswith(f"{path}, row ")
