import csv
import io
import os
import zipfile
from collections.abc import Callable
from pathlib import Path

import hypothesis
import pytest
from hypothesis import strategies as st

from socialtag_jax.errors import UsageError, UserError
from socialtag_jax.labels import build_vocabulary
from socialtag_jax.sources import tags_csv
from socialtag_jax.sources.photo import Photo


@pytest.fixture
def read(tmp_path: Path) -> Callable[..., list[Photo]]:
    """Writes a CSV file and reads it; warnings fail the test."""

    def write_and_read(content: str | bytes, tag_separator: str = " ") -> list[Photo]:
        (tmp_path / "tags.csv").write_bytes(content if isinstance(content, bytes) else content.encode())
        return tags_csv.read(tmp_path, tag_separator=tag_separator, warn=pytest.fail)

    return write_and_read


@pytest.fixture
def read_with_warnings(tmp_path: Path) -> Callable[..., tuple[list[Photo], list[str]]]:
    """Writes a CSV file and reads it; returns the warnings too."""

    def write_and_read(content: str) -> tuple[list[Photo], list[str]]:
        (tmp_path / "tags.csv").write_text(content, encoding="utf-8")
        warnings: list[str] = []
        return tags_csv.read(tmp_path, warn=warnings.append), warnings

    return write_and_read


def content(photos: list[Photo]) -> list[tuple[str, tuple[str, ...], str | None]]:
    return [(photo.image_id, photo.tags, photo.split) for photo in photos]


def test_header_and_splits(read: Callable[..., list[Photo]], tmp_path: Path) -> None:
    photos = read("path,tags,split\na.jpg,#Sea  sky,train\nb/c.jpg,sun,Test\nd.jpg,,VAL\ne.jpg,moon,\n")
    assert content(photos) == [
        ("a.jpg", ("#Sea", "sky"), "train"),
        ("b/c.jpg", ("sun",), "test"),
        ("d.jpg", (), "validation"),
        ("e.jpg", ("moon",), None),
    ]
    assert photos[1].path == tmp_path / "b" / "c.jpg"
    assert photos[1].where == f"{tmp_path / 'tags.csv'}, row 3"
    assert photos == tags_csv.read(tmp_path / "tags.csv", warn=pytest.fail)


@pytest.mark.parametrize("header", ["Subset, TAGS ,FileName", "set,hashtags,image_path", "partition,keywords,photo"])
def test_columns_in_any_order(read: Callable[..., list[Photo]], header: str) -> None:
    assert content(read(f"{header}\ndev,sea sky,a.jpg\n")) == [("a.jpg", ("sea", "sky"), "validation")]


def test_other_columns_are_ignored_aloud(read_with_warnings: Callable[..., tuple[list[Photo], list[str]]]) -> None:
    photos, warnings = read_with_warnings(",path,Date,tags\n0,a.jpg,2018,sea\n")
    assert content(photos) == [("a.jpg", ("sea",), None)]
    assert len(warnings) == 1
    assert warnings[0].endswith("tags.csv, row 1: ignored columns: (unnamed), date")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a.jpg,sea sky\nb.jpg,\n", [("a.jpg", ("sea", "sky"), None), ("b.jpg", (), None)]),
        ("a.jpg,sea,training\n", [("a.jpg", ("sea",), "train")]),
        # Tags that are also names of columns.
        ("a.jpg,photo\n", [("a.jpg", ("photo",), None)]),
        ("a.jpg,set\n", [("a.jpg", ("set",), None)]),
        ("images/1,tags,test\n", [("images/1", ("tags",), "test")]),
        # Photos that are called like a column.
        ("./image,sea\n", [("image", ("sea",), None)]),
        ("7,sea\nimage,sky\n", [("7", ("sea",), None), ("image", ("sky",), None)]),
    ],
)
def test_headerless(read: Callable[..., list[Photo]], text: str, expected: object) -> None:
    assert content(read(text)) == expected


def test_texts_that_look_like_missing_values_are_tags(read: Callable[..., list[Photo]]) -> None:
    (photo,) = read("a.jpg,null NA nan true 1 None\n")
    assert photo.tags == ("null", "NA", "nan", "true", "1", "None")


@pytest.mark.parametrize(
    "data",
    [
        b"path,tags\na.jpg,sea sky\n",
        b"\xef\xbb\xbfpath,tags\r\na.jpg,sea sky\r\n",
        b"path,tags\ra.jpg,sea sky",
        b"\n\r\n,\npath,tags\n  , \n\na.jpg,sea\tsky\n,,\n",
        b'"path", "tags"\n"a.jpg", "sea\n sky"\n',
        "path,tags\na.jpg,sea sky\n".encode("utf-16"),
    ],
)
def test_encodings_line_ends_and_empty_rows(read: Callable[..., list[Photo]], data: bytes) -> None:
    assert content(read(data)) == [("a.jpg", ("sea", "sky"), None)]


def test_rows_are_counted_in_lines_of_the_file(read: Callable[..., list[Photo]]) -> None:
    photos = read('path,tags\n\na.jpg,"sea\nsky"\nb.jpg,sun\n')
    assert [photo.where.rpartition(", ")[2] for photo in photos] == ["row 3", "row 5"]


def test_tag_separator(read: Callable[..., list[Photo]]) -> None:
    assert read('a.jpg,"New York,  sea ,,"\n', tag_separator=",")[0].tags == ("New York", "sea")
    assert read("a.jpg,New York;sea\n", tag_separator=";")[0].tags == ("New York", "sea")
    with pytest.raises(UsageError, match="--tag-separator: the separator is empty"):
        read("a.jpg,sea\n", tag_separator="")


def test_tags_that_look_unseparated(read_with_warnings: Callable[..., tuple[list[Photo], list[str]]]) -> None:
    photos, warnings = read_with_warnings('a.jpg,"sea,sky"\nb.jpg,sun\n')
    assert photos[0].tags == ("sea,sky",)
    assert len(warnings) == 1
    assert "1 of 2 tag cells hold commas or semicolons, such as 'sea,sky'" in warnings[0]
    assert "--tag-separator ','" in warnings[0]


def test_paths(read: Callable[..., list[Photo]], tmp_path: Path) -> None:
    (tmp_path / "mixed").mkdir()
    (tmp_path / "mixed" / "e.jpg").touch()
    rows = [
        ("./a.jpg", "a.jpg"),
        ("x//y/../b.jpg", "x/b.jpg"),
        ("x\\c.jpg", "x/c.jpg"),
        (f"{tmp_path}/x/./d.jpg", "x/d.jpg"),
        ("./mixed\\e.jpg", "mixed/e.jpg"),
        ("x/odd\\name.jpg", "x/odd\\name.jpg"),
        (" x/g.jpg ", "x/g.jpg"),
        ("x/..h.jpg", "x/..h.jpg"),
    ]
    photos = read("".join(f"{written},sea\n" for written, _ in rows))
    assert [photo.image_id for photo in photos] == [image_id for _, image_id in rows]
    assert photos[3].path == tmp_path / "x" / "d.jpg"


def test_absolute_paths_through_a_symbolic_link(tmp_path: Path) -> None:
    real, link = tmp_path / "real", tmp_path / "link"
    real.mkdir()
    link.symlink_to(real)
    (real / "tags.csv").write_text(f"{real}/a.jpg,sea\n{link}/b.jpg,sea\n")
    photos = tags_csv.read(link, warn=pytest.fail)
    assert [photo.image_id for photo in photos] == ["a.jpg", "b.jpg"]


def test_rows_of_one_photo_are_merged(read_with_warnings: Callable[..., tuple[list[Photo], list[str]]]) -> None:
    photos, warnings = read_with_warnings(
        "path,tags,split\na.jpg,sea,\nb.jpg,sun,test\n./a.jpg,sea sky,train\na.jpg,Sea,train\n"
    )
    assert content(photos) == [("a.jpg", ("sea", "sea", "sky", "Sea"), "train"), ("b.jpg", ("sun",), "test")]
    assert len(warnings) == 1
    assert warnings[0].startswith("merged 2 rows that name a photo again, the first one 'a.jpg' in ")
    assert "row 2 and " in warnings[0]
    assert warnings[0].endswith("row 4")


def test_thesis_layout(read: Callable[..., list[Photo]]) -> None:
    photos = read("train/sea/a.jpg,sea\nVal/b.jpg,sky\nvalidation\\c.jpg,sky\ntest/d.jpg,sun\n")
    assert [photo.split for photo in photos] == ["train", "validation", "validation", "test"]
    # A split column overrides the folders, and so does one that is empty.
    photos = read("path,tags,split\ntrain/a.jpg,sea,test\ntrain/b.jpg,sea,\n")
    assert [photo.split for photo in photos] == ["test", None]


def test_almost_thesis_layout(read_with_warnings: Callable[..., tuple[list[Photo], list[str]]]) -> None:
    photos, warnings = read_with_warnings("train/a.jpg,sea\ntest/b.jpg,sky\nother/c.jpg,sun\ntest,moon\n")
    assert [photo.split for photo in photos] == [None] * 4
    assert len(warnings) == 1
    assert "row 3: 'other/c.jpg' lies in no folder train, validation or test, as 2 of 4 photos do" in warnings[0]


def test_ordinary_folders_are_no_splits(read: Callable[..., list[Photo]]) -> None:
    assert [photo.split for photo in read("images/a.jpg,sea\ntrain,sky\n")] == [None, None]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", r"tags\.csv: the file has no rows -- expected one row per photo: path,tags"),
        ("\n,,\n", r"tags\.csv: the file has no rows"),
        ("path,tags\n\n", r"tags\.csv: the file has a header but no photos"),
        (
            "name,tags,split\na.jpg,sea,train\n",
            r"row 1: the header has no path column, only: name, tags, split -- name it one of path, image, image_",
        ),
        ("tags\nsea\n", r"row 1: the header has no path column, only: tags -- "),
        (
            "image,beach\nb.jpg,sea\n",
            r"row 1: the header has no tags column, only: image, beach -- name it one of tags, .* path as \./image",
        ),
        ("path,tags,note,Note\n", r"row 1: the column 'note' stands twice: path, tags, note, note"),
        ("path,file,tags\n", r"row 1: 'path' and 'file' may both be the path column -- rename or delete one"),
        ("path,tags,keywords\n", r"row 1: 'tags' and 'keywords' may both be the tags column"),
        (
            "path;tags\na.jpg;sea\n",
            r"row 1: the cells are separated by semicolons, expected commas: 'path;tags' -- save",
        ),
        ("a.jpg;sea,sky\n", r"row 1: the cells are separated by semicolons"),
        ("a.jpg\tsea sky\n", r"row 1: the cells are separated by tabs, expected commas: 'a\.jpg\\tsea sky'"),
        ("7|sea\n", r"row 1: the cells are separated by vertical bars"),
        ("a.jpg\n", r"row 1: 1 cell and no header, expected path,tags or path,tags,split: 'a\.jpg' -- a photo without"),
        ("a.jpg,sea,sky,sun\n", r"""row 1: 4 cells and no header.*"sea,sky", and give --tag-separator ','"""),
        (
            "path,tags\na.jpg,sea\nb.jpg,sea,sky\n",
            r"""row 3: 3 cells, expected 2 as in the first row: 'b\.jpg,sea,sky' -- .* photo\.jpg,"sea,sky", and""",
        ),
        ("path,tags\nb.jpg\n", r"row 2: 1 cell, expected 2 as in the first row: 'b\.jpg' -- .* empty cell"),
        ("a.jpg,sea,test\nb.jpg,sea\n", r"row 2: 2 cells, expected 3 as in the first row"),
        (
            "a.jpg,sea,test\nb.jpg,sea,sky\n",
            r"row 2: 'sky' is no split, expected train, training, validation, valid, val, dev, test, testing or no",
        ),
        ("path,tags\n ,sea\n", r"row 2: the path cell is empty -- fill it in or delete the row"),
        ("a.jpg,sea\n../b.jpg,sea\n", r"row 2: the path '\.\./b\.jpg' leads to no file below .* relative to the CSV"),
        ("x/../../b.jpg,sea\n", r"row 1: the path 'x/\.\./\.\./b\.jpg' leads to no file below"),
        ("/elsewhere/b.jpg,sea\n", r"row 1: the path '/elsewhere/b\.jpg' leads to no file below"),
        ("C:\\photos\\b.jpg,sea\n", r"row 1: the path 'C:\\\\photos\\\\b\.jpg' leads to no file below"),
        ("./,sea\n", r"row 1: the path '\./' leads to no file below"),
        (
            "path,tags,split\na.jpg,sea,train\nb.jpg,sky,test\na.jpg,sky,test\n",
            r"row 4: 'a\.jpg' is in split 'test' here, but 'train' in .*tags\.csv, row 2 -- delete one",
        ),
        (
            'path,tags\na.jpg,sea\nb.jpg,"sky\nc.jpg,sun\n',
            r"row 3: the row is not valid CSV: unexpected end of data -- ",
        ),
        ('a.jpg,"sea"sky\n', r"row 1: the row is not valid CSV: .* is a double quote not closed"),
        ("a.jpg,sea\nb.jpg,s\0a\n", r"row 2: NUL character at column 8: not a text file, .* -- save the file as UTF-8"),
    ],
)
def test_bad_input(read: Callable[..., list[Photo]], text: str, message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        read(text)
    assert "\n" not in str(caught.value)
    assert "tags.csv" in str(caught.value)


@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
def test_wrong_encoding(read: Callable[..., list[Photo]], mark: bytes) -> None:
    # Far behind the first block that the decoder reads.
    data = mark + b"path,tags\r\n" + b"a.jpg,sea\r\n" * 2000 + "b.jpg,café\r\n".encode("latin-1")
    offset = data.index(b"\xe9")
    with pytest.raises(UserError, match=rf"row 2002: not UTF-8 text at byte offset {offset} \(0xe9\) -- save the file"):
        read(data)
    with pytest.raises(UserError, match=r"row 1: not UTF-16 text at byte offset"):
        read("path,tags\n".encode("utf-16")[:-1])


def test_cells_longer_than_the_csv_module_allows(read: Callable[..., list[Photo]]) -> None:
    limit = csv.field_size_limit()
    assert len(read(f"a.jpg,{'sea ' * 100_000}\n")[0].tags) == 100_000
    assert csv.field_size_limit() == limit


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(
        UserError, match=r"tags\.csv: no such file -- expected a CSV file, or a folder that has tags\.csv"
    ):
        tags_csv.read(tmp_path, warn=pytest.fail)
    (tmp_path / "photos.csv").touch()
    with pytest.raises(UserError, match=r"to read photos\.csv, name that file"):
        tags_csv.read(tmp_path, warn=pytest.fail)


def test_unreadable_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: object, **options: object) -> None:
        raise PermissionError(13, os.strerror(13))

    (tmp_path / "tags.csv").write_text("a.jpg,sea\n")
    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(
        UserError, match=r"tags\.csv: cannot be read: Permission denied -- check the file's permissions"
    ):
        tags_csv.read(tmp_path, warn=pytest.fail)


names = st.text(st.characters(exclude_categories=("Cs",), exclude_characters="/\\\0"), min_size=1).filter(
    lambda name: name == name.strip() and name not in (".", "..")
)
tags = st.text(st.characters(exclude_categories=("Cs",), exclude_characters=";\0"), min_size=1).filter(
    lambda tag: tag == tag.strip() != ""
)
splits = st.sampled_from([None, "train", "validation", "test"])


@hypothesis.given(st.dictionaries(names, st.tuples(st.lists(tags, max_size=4), splits), min_size=1, max_size=8))
def test_what_the_csv_module_writes(
    tmp_path_factory: pytest.TempPathFactory, rows: dict[str, tuple[list[str], str | None]]
) -> None:
    text = io.StringIO(newline="")
    writer = csv.writer(text)
    writer.writerow(("path", "tags", "split"))
    writer.writerows((name, ";".join(texts), split) for name, (texts, split) in rows.items())
    path = tmp_path_factory.mktemp("csv") / "photos.csv"
    path.write_bytes(text.getvalue().encode())
    photos = tags_csv.read(path, tag_separator=";", warn=pytest.fail)
    assert content(photos) == [(name, tuple(texts), split) for name, (texts, split) in rows.items()]


def test_corel5k(shared_data: Path, tmp_path: Path) -> None:
    """The data set's published figures: 4,999 photos, 4,500 for training, 371 keywords in train, 260 in both splits."""
    with zipfile.ZipFile(shared_data / "corel5k.zip") as archive:
        (tmp_path / "tags.csv").write_bytes(archive.read("corel5k/tags.csv"))
    photos = tags_csv.read(tmp_path, warn=pytest.fail)
    tags_of = {split: [photo.tags for photo in photos if photo.split == split] for split in ("train", "test")}
    assert [len(tag_lists) for tag_lists in tags_of.values()] == [4500, 499]
    train, test = (set(build_vocabulary(tag_lists).tags) for tag_lists in tags_of.values())
    assert len(train) == 371
    assert len(train & test) == 260
    assert max(len(photo.tags) for photo in photos) == 5
    assert photos[0].image_id == "images/1000/1000.jpeg"
    assert photos[0].tags == ("city", "mountain", "sky", "sun")
