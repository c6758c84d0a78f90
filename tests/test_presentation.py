"""How suggestions are shown."""

from pathlib import Path

import numpy as np
import pytest

from socialtag_jax import presentation
from socialtag_jax.errors import UsageError, UserError
from socialtag_jax.presentation import Presentation, Presenter, hashtag, read_aliases, read_preset, read_stop, unknown
from socialtag_jax.tags import TagVocabulary, loose_key

VOCABULARY = TagVocabulary(
    ("beach", "new york", "newyorkcity", "iphone", "sea", "selfie"),
    ("Beach", "New York", "NewYorkCity", "iPhone", "sea", "selfie"),
)
SCORES = np.array([0.9, 0.8, 0.7, 0.6, 0.4, 0.95], np.float32)


def shown(**how: object) -> list[str]:
    settings = {"threshold": 0.5, "max_tags": 15, **how}
    chosen = Presentation(**settings)  # pyright: ignore[reportArgumentType]
    return [one.display for one in Presenter(VOCABULARY, chosen).choose(SCORES).tags]


def test_most_confident_first_over_the_threshold():
    assert shown() == ["selfie", "Beach", "New York", "NewYorkCity", "iPhone"]
    assert shown(max_tags=2) == ["selfie", "Beach"]


def test_stopped_tags_leave_room_for_the_next():
    assert shown(max_tags=2, stop=("#SELFIE", "New_York")) == ["Beach", "NewYorkCity"]
    assert shown(stop=("i phone", "new york city")) == ["selfie", "Beach", "New York"]


def test_aliases_become_one():
    aliases = {"NEW_YORK": "NYC", "new york city": "NYC", "sea": "Ocean"}
    tags = Presenter(VOCABULARY, Presentation(0.3, 15, aliases=aliases)).choose(SCORES).tags
    assert [(one.tag, one.display) for one in tags] == [
        ("selfie", "selfie"),
        ("beach", "Beach"),
        ("nyc", "NYC"),
        ("iphone", "iPhone"),
        ("ocean", "Ocean"),
    ]
    assert tags[2].confidence == pytest.approx(0.8)


def test_a_tag_has_one_spelling_whichever_of_its_aliases_is_surer():
    aliases = {"beach": "new_York", "sea": "NEW YORK"}
    for scores in ([0.9, 0.8, 0, 0, 0.7, 0], [0.7, 0.8, 0, 0, 0.9, 0], [0.7, 0.9, 0, 0, 0.8, 0]):
        chosen = Presenter(VOCABULARY, Presentation(0.5, 15, aliases=aliases)).choose(np.array(scores, np.float32))
        assert [(one.tag, one.display) for one in chosen.tags] == [("new_york", "new_York")]
        assert chosen.tags[0].confidence == pytest.approx(0.9)


def test_aliases_of_aliases(tmp_path: Path):
    path = tmp_path / "aliases.txt"
    path.write_text("BEACH=beach\nstrand=Beach\n")
    assert read_aliases(path) == {"BEACH": "beach", "strand": "Beach"}
    path.write_text("nyc = New York\nnew_york = NewYorkCity\n")
    with pytest.raises(UserError, match="'nyc' becomes 'New York', which becomes 'NewYorkCity' -- nyc = NewYorkCity"):
        read_aliases(path)
    path.write_text("a = b\nb = A\n")
    with pytest.raises(UserError, match="'a' becomes 'b', which becomes 'A'"):
        read_aliases(path)


def test_thousands_of_aliases_are_read_in_no_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A name's key is made a few times, not once for each of the lines before it."""
    calls = []
    monkeypatch.setattr(presentation, "loose_key", lambda text: calls.append(text) or loose_key(text))
    path = tmp_path / "aliases.txt"
    path.write_text("".join(f"tag{number} = other\n" for number in range(3000)))
    assert len(read_aliases(path)) == 3000
    assert len(calls) <= 10 * 3000


def test_what_an_alias_shows_can_be_stopped_too():
    assert shown(aliases={"beach": "Strand"}, stop=("strand",)) == ["selfie", "New York", "NewYorkCity", "iPhone"]


def test_rather_nothing_than_nonsense():
    unsure = Presenter(VOCABULARY, Presentation(0.5, 15, min_confidence=0.951)).choose(SCORES)
    assert (unsure.tags, unsure.abstained) == ((), True)
    sure = Presenter(VOCABULARY, Presentation(0.5, 15, min_confidence=0.949)).choose(SCORES)
    assert (len(sure.tags), sure.abstained) == (5, False)
    # The best of those that may be shown counts.
    stopped = Presenter(VOCABULARY, Presentation(0.5, 15, min_confidence=0.949, stop=("selfie",))).choose(SCORES)
    assert stopped.abstained
    none = Presenter(VOCABULARY, Presentation(0.99, 15)).choose(SCORES)
    assert (none.tags, none.abstained) == ((), False)


@pytest.mark.parametrize(
    ("display", "expected"),
    [
        ("beach", "#beach"),
        ("NewYork", "#NewYork"),
        ("new york city", "#NewYorkCity"),
        ("iPhone case", "#IPhoneCase"),
        ("golden_gate", "#golden_gate"),
        ("t-shirt", "#TShirt"),
        ("black&white", "#BlackWhite"),
        ("rock'n'roll", "#rocknroll"),
        ("café noir", "#CaféNoir"),
        ("été", "#été"),
        ("東京 タワー", "#東京タワー"),
        ("❤️", "#❤️"),
        ("\U0001f469\u200d\U0001f467 trip", "#\U0001f469\u200d\U0001f467Trip"),
        ("50mm f/1.8", "#50mmF18"),
        (":)", ""),
    ],
)
def test_hashtags(display: str, expected: str):
    assert hashtag(display) == expected


def test_tags_that_are_one_hashtag_are_shown_once():
    vocabulary = TagVocabulary(("black white", "black&white"), ("black white", "black&white"))
    presenter = Presenter(vocabulary, Presentation(0.1, 15, hashtags=True))
    (tag,) = presenter.choose(np.array([0.2, 0.7], np.float32)).tags
    assert (tag.tag, tag.display) == ("black&white", "#BlackWhite")


def test_names_in_whatever_spelling():
    assert {loose_key(text) for text in ("New York", "new_york", "#NewYork", "ＮＥＷ york")} == {"newyork"}


def test_lists(tmp_path: Path):
    stop, aliases = tmp_path / "stop.txt", tmp_path / "aliases.txt"
    stop.write_text("\ufeffselfie\n\n#Beach\n \n", encoding="utf-8")
    aliases.write_text("nyc = New York\n\n#sea=Ocean\n")
    assert read_stop(stop) == ["selfie", "#Beach"]
    assert read_aliases(aliases) == {"nyc": "New York", "#sea": "Ocean"}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("nyc\n", "line 1: 'nyc': expected a tag and what to show instead -- nyc = New York"),
        ("a = b\n = c\n", "line 2: ' = c': expected a tag"),
        ("a =\n", "line 1: 'a =': expected a tag"),
        ("new york = a\nNew_York = b\n", "line 2: the tag 'New_York' stands in an earlier line too"),
    ],
)
def test_aliases_that_are_none(tmp_path: Path, text: str, words: str):
    path = tmp_path / "aliases.txt"
    path.write_text(text)
    with pytest.raises(UserError) as caught:
        read_aliases(path)
    assert words in str(caught.value)


def test_names_that_the_model_does_not_know():
    assert unknown(["BEACH", "new_york"], VOCABULARY, "stop.txt") == []
    assert unknown(["beech", "quark"], VOCABULARY, "stop.txt") == [
        "warning: stop.txt: the model has no tag 'beech': did you mean 'Beach'?",
        "warning: stop.txt: the model has no tag 'quark'",
    ]
    lines = unknown([f"x{number}" for number in range(8)], VOCABULARY, "stop.txt")
    assert len(lines) == 6
    assert lines[-1] == "warning: stop.txt: 3 more of its tags are none of the model's"


def test_a_preset(tmp_path: Path):
    path = tmp_path / "instagram.toml"
    path.write_text('max-tags = 8\nmin-confidence = 0.5\nhashtags = true\nstop = "stop.txt"\n')
    expected = {"max-tags": 8, "min-confidence": 0.5, "hashtags": True, "stop": tmp_path / "stop.txt"}
    assert read_preset(path) == expected


@pytest.mark.parametrize(
    ("text", "error", "words"),
    [
        ("max-tags = ", UserError, "not valid TOML"),
        ("max_tags = 8", UsageError, "there is no setting 'max_tags' -- did you mean 'max-tags'?"),
        ("max-tags = true", UsageError, "max-tags is True, expected a whole number"),
        ("hashtags = 1", UsageError, "hashtags is 1, expected true or false"),
        ("threshold = '0.5'", UsageError, "threshold is '0.5', expected a number"),
        ("stop = ['a']", UsageError, "stop is ['a'], expected a file's name"),
    ],
)
def test_a_preset_that_is_none(tmp_path: Path, text: str, error: type[UserError], words: str):
    path = tmp_path / "preset.toml"
    path.write_text(text)
    with pytest.raises(error) as caught:
        read_preset(path)
    assert words in str(caught.value)
