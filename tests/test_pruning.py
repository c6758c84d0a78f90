"""Pruning rules worked by hand, in the order of the thesis, and what a wrong rule says."""

from pathlib import Path

import pytest

from socialtag_jax.errors import UsageError, UserError
from socialtag_jax.labels import Labels, normalise, pack
from socialtag_jax.pruning import CameraMaker, Step, camera_makers, prune, require_listed, table
from socialtag_jax.rules import parse_pruning

PHOTOS = [
    ["Nikon", "NikonD80", "sea", "2008"],
    ["canon", "sea", "sky"],
    ["Sea", "sky", "50mm"],
    ["nikkor", "nikond80"],
    [],
    ["sea", "sun", "sea"],
]


def left(labels: Labels) -> dict[int, list[str]]:
    return {photo: [labels.tags[tag] for tag in labels.of(photo)] for photo in labels.photos.tolist()}


def pruned(photos: list[list[str]], *rules: str) -> dict[int, list[str]]:
    return {
        photo: sorted(tags) for photo, tags in left(prune(normalise(pack(photos)), parse_pruning(rules))[0]).items()
    }


def test_report_worked_by_hand():
    labels, steps = prune(
        normalise(pack(PHOTOS)), parse_pruning(["camera-makers", "digits", "min-images=2", "min-tags=1"])
    )
    assert [Step.of("as found", pack(PHOTOS)), Step.of("normalised", normalise(pack(PHOTOS))), *steps] == [
        # Nikon, NikonD80, sea, 2008, canon, sky, Sea, 50mm, nikkor, nikond80, sun; more than once: sea, sky.
        Step("as found", 6, 1, 11, 9, 14 / 6, 2.5, 4, 3),
        # Sea is sea (now on four photos), NikonD80 is nikond80; more than once: nikond80, sea, sky.
        Step("normalised", 6, 1, 9, 6, 14 / 6, 2.5, 4, 4),
        # Without nikon, nikond80 (two photos) and canon; nikkor, a lens, does not contain a maker's name.
        Step("camera-makers", 6, 1, 6, 4, 10 / 6, 2.0, 3, 4),
        # Without 2008 and 50mm.
        Step("digits", 6, 1, 4, 2, 8 / 6, 1.5, 2, 4),
        # Without nikkor and sun.
        Step("min-images=2", 6, 2, 2, 0, 1.0, 1.0, 2, 4),
        Step("min-tags=1", 4, 0, 2, 0, 1.5, 1.5, 2, 4),
    ]
    assert left(labels) == {0: ["sea"], 1: ["sea", "sky"], 2: ["sea", "sky"], 5: ["sea"]}


def test_preset_is_the_thesis_recipe():
    rules = parse_pruning(["mirflickr"])
    assert [rule.text for rule in rules] == ["camera-makers", "digits", "min-images=101", "min-tags=1"]
    # "Used by 100 or fewer images" goes; 101 stay.
    photos = [["sea", "rare", "2008", "mynikon"]] * 100 + [["sea"]] + [["only2008"]]
    labels, steps = prune(normalise(pack(photos)), rules)
    assert labels.vocabulary().tags == ("sea",)
    assert (steps[-1].images, steps[-1].unique_tags) == (101, 1)


def test_rules_one_by_one(tmp_path: Path):
    listed = tmp_path / "tags.txt"
    listed.write_text("#Sea\n\nunheard of\n", encoding="utf-8")
    photos = [["b", "sea", "a"], ["sea", "a"], ["sea"]]
    assert pruned(photos) == {0: ["a", "b", "sea"], 1: ["a", "sea"], 2: ["sea"]}
    assert pruned(photos, "stop=Sea,b") == {0: ["a"], 1: ["a"], 2: []}
    assert pruned(photos, f"stop=@{listed}") == {0: ["a", "b"], 1: ["a"], 2: []}
    assert pruned(photos, "allow=#SEA") == pruned(photos, f"allow=@{listed}") == {0: ["sea"], 1: ["sea"], 2: ["sea"]}
    assert pruned(photos, "most-frequent=2") == {0: ["a", "sea"], 1: ["a", "sea"], 2: ["sea"]}
    # As written, not in the alphabet's order.
    assert pruned(photos, "max-tags=2") == {0: ["b", "sea"], 1: ["a", "sea"], 2: ["sea"]}
    assert pruned(photos, "min-tags=2") == {0: ["a", "b", "sea"], 1: ["a", "sea"]}
    # The owner's words for a model's outputs.
    labels, _ = prune(normalise(pack(photos)), parse_pruning(["vocabulary=sea,nowhere,#B", "min-tags=2"]))
    assert labels.vocabulary().tags == tuple(labels.in_vocabulary_order().tags) == ("sea", "nowhere", "b")
    assert {photo: labels.of(photo) for photo in labels.photos.tolist()} == {0: (0, 2)}
    with pytest.raises(UserError, match=r"no tag is left after 'max-tags=2'"):
        pruned([[], []], "max-tags=2", "min-tags=1")
    with pytest.raises(UserError, match=r"no tag is left in any photo"):
        pruned([[], []])


def test_order_matters():
    photos = [["sea", "a"], ["sea"], ["a", "sea"]]
    assert pruned(photos, "max-tags=1", "min-images=2") == {0: ["sea"], 1: ["sea"], 2: []}
    assert pruned(photos, "min-images=2", "max-tags=1") == {0: ["sea"], 1: ["sea"], 2: ["a"]}


@pytest.mark.parametrize(
    ("rule", "words"),
    [
        ("digit", "there is no rule 'digit' -- did you mean 'digits'?"),
        (
            "xyz",
            "-- one of camera-makers, digits, min-images, most-frequent, stop, allow, vocabulary, max-tags",
        ),
        ("digits=3", "'digits=3': the rule digits has no value"),
        ("min-images", "'min-images': expected a whole number of at least 1, as in min-images=20"),
        ("min-images=0", "expected a whole number"),
        ("min-images=-3", "expected a whole number"),
        ("stop", "'stop': expected tags or a file, as in stop=sea,sun or stop=@tags.txt"),
        ("allow=@", "expected tags or a file"),
    ],
)
def test_wrong_rules(rule: str, words: str):
    with pytest.raises(UsageError) as caught:
        parse_pruning([rule])
    assert words in str(caught.value)
    assert caught.value.exit_code == 2


def test_lists_that_cannot_be_read(tmp_path: Path):
    with pytest.raises(UserError, match=r"none\.txt: cannot be read: No such file.* one tag a line"):
        parse_pruning([f"stop=@{tmp_path / 'none.txt'}"])
    (tmp_path / "latin.txt").write_bytes(b"caf\xe9\n")
    with pytest.raises(UserError, match=r"latin\.txt: not UTF-8 text at byte offset 3"):
        parse_pruning([f"allow=@{tmp_path / 'latin.txt'}"])


def test_listed_tags_that_no_photo_has():
    photos = normalise(pack([["mountain", "mountains", "fountain", "maintain", "sea"]]))
    with pytest.raises(UsageError) as caught:
        require_listed(photos, parse_pruning(["allow=Mountian,sea,zebra"]))
    message = str(caught.value)
    assert message.startswith("--pruning: no photo has the tag 'mountian' (nor 1 more of the list) -- did you mean")
    assert message.count("' or '") == 2
    assert "'mountain'" in message
    with pytest.raises(UsageError, match="no photo has the tag 'xyz' -- leave it out"):
        require_listed(photos, parse_pruning(["stop=xyz"]))
    require_listed(photos, parse_pruning(["vocabulary=sea,xyz"]))


def test_camera_makers_worked_by_hand():
    found = camera_makers(normalise(pack([*PHOTOS, ["nikonians", "canon"], ["Canon EOS"]])))
    # nikon: nikon, nikond80, nikonians on photos 0, 3, 6; canon: canon, canon eos on photos 1, 6, 7.
    assert found == [CameraMaker("canon", 2, 3), CameraMaker("nikon", 3, 3)]


def test_table():
    _, steps = prune(normalise(pack(PHOTOS)), parse_pruning(["digits"]))
    text = table(steps)
    titles = " ".join(text.splitlines()[0].split())
    assert titles == "photos without tags unique tags used once mean median max most used"
    assert text.splitlines()[1].split() == ["digits", "6", "1", "6", "66.7%", "1.67", "2", "3", "4"]


def test_where_a_list_lies_decides_nothing(tmp_path: Path):
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "stop.txt").write_text("sea\n", encoding="utf-8")
    one, other = (parse_pruning([f"stop=@{tmp_path / folder / 'stop.txt'}"]) for folder in ("a", "b"))
    assert one == other
    assert one[0].text == "stop=@stop.txt"
