import unicodedata
from pathlib import Path

import hypothesis
import pytest
from hypothesis import strategies as st

from socialtag_jax.errors import UserError
from socialtag_jax.labels import build_vocabulary
from socialtag_jax.tags import TagVocabulary, display_form, normalise_tag
from tests.attempts import attempt

# Text with many of the characters that normalisation is about.
TRICKY = "#＃﹟ \t\n\r\x00\x1c\x85\u2028\u2029\u3000\ufeff\u200b\u200c\u200d\ufe0f\u0301\u0345İßΐΣς①ﬁ❤👩🏽🏴\ud800aB"
texts = st.text(st.one_of(st.sampled_from(TRICKY), st.characters(exclude_categories=())), max_size=12)


@pytest.mark.parametrize(
    ("text", "tag"),
    [
        ("#Beach", "beach"),
        ("##beach", "beach"),
        ("＃ＳＥＡ", "sea"),
        ("c#", "c#"),
        ("New\u00a0 York\r\n", "new york"),
        ("Straße", "strasse"),
        ("CAFÉ", "café"),
        ("cafe\u0301", "café"),
        ("①ﬁ", "1fi"),
        ("\ufeff\u200bsea\u00ad", "sea"),
        ("sea\u2028side\x85now", "sea side now"),
        ("b\x00ad", "b ad"),
        ("a\ud800b", "a b"),
        ("null", "null"),
        ("NA", "na"),
        ("nan", "nan"),
        ("true", "true"),
        ("1", "1"),
        ("#", ""),
        ("\u3164\u200d", ""),
        ("", ""),
    ],
)
def test_id(text: str, tag: str) -> None:
    assert normalise_tag(text) == tag


def flag(region: str) -> str:
    """A black flag, the region in invisible letters, and the invisible end mark."""
    return "🏴" + "".join(chr(0xE0000 + ord(letter)) for letter in region) + chr(0xE007F)


def test_emoji_keep_the_invisible_characters_that_carry_meaning() -> None:
    family, scotland, wales = "👩\u200d👧", flag("gbsct"), flag("gbwls")
    assert [normalise_tag(emoji) for emoji in (family, scotland, wales)] == [family, scotland, wales]
    assert normalise_tag("می\u200cخواهم") == "می\u200cخواهم"
    assert normalise_tag("sea\u200d\u200cside") == "seaside"
    # Same emoji, typed on different phones.
    assert normalise_tag("❤\ufe0f") == normalise_tag("❤") == "❤"
    assert display_form("❤\ufe0f") == "❤\ufe0f"


@hypothesis.given(texts)
def test_id_is_one_clean_line(text: str) -> None:
    tag = normalise_tag(text)
    assert normalise_tag(tag) == tag
    assert not tag.startswith(("#", " "))
    assert not tag.endswith(" ")
    assert len(tag.splitlines()) <= 1
    assert all(unicodedata.category(character) not in ("Cc", "Cs", "Zl", "Zp") for character in tag)


@hypothesis.given(texts)
def test_display_form_is_a_way_to_write_the_tag(text: str) -> None:
    display = display_form(text)
    assert normalise_tag(display) == normalise_tag(text)
    assert bool(display) == bool(normalise_tag(text))
    assert len(display.splitlines()) <= 1
    assert display == unicodedata.normalize("NFC", display)


@hypothesis.given(texts)
def test_canonically_equivalent_texts_are_one_tag(text: str) -> None:
    assert normalise_tag(unicodedata.normalize("NFD", text)) == normalise_tag(text)


def test_display_form_keeps_case_and_punctuation() -> None:
    assert display_form(" ##New \t York! ") == "New York!"
    assert display_form("cafe\u0301") == "café"


PHOTOS = [["#Sea", "sea", "Sky"], ["Sea", "NA"], ["Sea", "sky", ""], ["SEA", "#"]]


def test_inconsistent_vocabulary() -> None:
    with pytest.raises(ValueError, match="2 tags, 1 unique, 2 displays"):
        TagVocabulary(("a", "a"), ("a", "a"))
    with pytest.raises(ValueError, match="1 tags, 1 unique, 0 displays"):
        TagVocabulary(("a",), ())


@hypothesis.given(st.lists(st.lists(texts, max_size=5), max_size=5))
def test_save_and_load_round_trip(tmp_path_factory: pytest.TempPathFactory, tag_lists: list[list[str]]) -> None:
    vocabulary = build_vocabulary(tag_lists)
    labels = tmp_path_factory.mktemp("vocabulary") / "tags.labels.txt"
    vocabulary.save(labels)
    loaded = TagVocabulary.load(labels)
    assert loaded == vocabulary
    assert loaded.sha256 == vocabulary.sha256
    for texts_of_photo in tag_lists:
        ids = {loaded.tags[index] for index in loaded.encode(texts_of_photo)}
        assert ids == {normalise_tag(text) for text in texts_of_photo} - {""}


@pytest.mark.parametrize("name", ["tags.labels.txt", "tags.txt"])
def test_files(tmp_path: Path, name: str) -> None:
    build_vocabulary(PHOTOS).save(tmp_path / name)
    assert (tmp_path / name).read_bytes() == b"sea\nsky\nna\n"
    assert (tmp_path / "tags.display.txt").read_bytes() == b"Sea\nSky\nNA\n"
    assert len(list(tmp_path.iterdir())) == 2


def test_labels_of_other_programs_are_display_forms(tmp_path: Path) -> None:
    (tmp_path / "tags.labels.txt").write_text("New York\n#Sea\n")
    vocabulary = TagVocabulary.load(tmp_path / "tags.labels.txt")
    assert vocabulary == TagVocabulary(("new york", "sea"), ("New York", "#Sea"))


def test_ids_stand_in_for_missing_display_forms(tmp_path: Path) -> None:
    labels = tmp_path / "tags.labels.txt"
    labels.write_bytes(b"sea\nsky")
    assert TagVocabulary.load(labels) == TagVocabulary(("sea", "sky"), ("sea", "sky"))


@pytest.mark.parametrize(
    ("labels", "displays", "message"),
    [
        (b"sea\nSky\n", b"", r"tags\.labels\.txt, line 2: 'Sky' is not a normalised tag, expected 'sky' -- restore"),
        (b"sea\r\n", b"", r"line 1: 'sea\\r' is not a normalised tag, expected 'sea'"),
        (b"sea\n\nsky\n", b"", r"line 2: '' is not a normalised tag, expected a tag"),
        (b"sea\nsky\nsea\n", b"", r"line 3: the tag 'sea' stands in line 1 too"),
        (b"sea\nsky\n", b"Sea\n", r"tags\.display\.txt: 1 lines, but tags\.labels\.txt has 2"),
        (b"sea\n\xff\n", b"", r"tags\.labels\.txt: not UTF-8 text at byte offset 4"),
    ],
)
def test_damaged_files(tmp_path: Path, labels: bytes, displays: bytes, message: str) -> None:
    (tmp_path / "tags.labels.txt").write_bytes(labels)
    (tmp_path / "tags.display.txt").write_bytes(displays)
    with pytest.raises(UserError, match=message):
        TagVocabulary.load(tmp_path / "tags.labels.txt")


def test_missing_labels(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"tags\.labels\.txt: cannot be read: No such file"):
        TagVocabulary.load(tmp_path / "tags.labels.txt")


label_files = st.one_of(
    st.binary(max_size=60),
    st.lists(texts, max_size=5).map(lambda lines: "\n".join(lines).encode("utf-8", "surrogatepass")),
)


@hypothesis.given(labels=label_files, displays=st.none() | label_files)
def test_any_label_files(tmp_path_factory: pytest.TempPathFactory, labels: bytes, displays: bytes | None) -> None:
    """A vocabulary that is written back as it was read, or an error that names the file."""
    folder = tmp_path_factory.mktemp("vocabulary")
    (folder / "tags.labels.txt").write_bytes(labels)
    if displays is not None:
        (folder / "tags.display.txt").write_bytes(displays)
    vocabulary, error = attempt(lambda: TagVocabulary.load(folder / "tags.labels.txt"))
    if error is not None:
        assert str(folder) in str(error.where)
        return
    assert all(normalise_tag(display) == tag for tag, display in zip(vocabulary.tags, vocabulary.displays, strict=True))
    vocabulary.save(folder / "again.labels.txt")
    assert TagVocabulary.load(folder / "again.labels.txt") == vocabulary
