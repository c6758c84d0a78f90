"""What may be searched, how it is written, and the words of what is refused."""

import dataclasses

import pytest

from socialtag_jax.config import Augmentation, Cache, Checkpoints, Experiment, Loss, Model, Optimizer, Stage
from socialtag_jax.errors import UsageError
from socialtag_jax.search_space import (
    NUMBERS,
    SEED,
    STRUCTURE,
    Range,
    Values,
    check,
    configure,
    draw,
    grid,
    parse_space,
    value_of,
)

BASE = Experiment(name="base", augmentation=Augmentation(enabled=False), checkpoints=Checkpoints(monitor="f1"))


def test_every_way_to_write_values():
    space = parse_space(
        [
            "optimizer.learning-rate=log:1e-4:1e-2",
            "model.dropout-rate=0.2:0.6",
            "loss.positive-weight=log:1:100:3",
            "loss.l2=0:1e-3:3",
            "model.hidden-units=256, 512",
            "optimizer.clip-norm=none,1.5",
            "optimizer.kind=adam,sgd",
            "loss.l1=inf,1",
        ]
    )
    assert space == {
        "optimizer.learning_rate": Range(1e-4, 1e-2, True),
        "model.dropout_rate": Range(0.2, 0.6, False),
        "loss.positive_weight": Values((1.0, 10.0, 100.0)),
        "loss.l2": Values((0.0, 5e-4, 1e-3)),
        "model.hidden_units": Values((256, 512)),
        "optimizer.clip_norm": Values((None, 1.5)),
        "optimizer.kind": Values(("adam", "sgd")),
        "loss.l1": Values(("inf", 1)),  # no number: refused by the field
    }


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("optimizer.learning-rate", r"'optimizer.learning-rate': expected FIELD=VALUES"),
        ("optimizer.rate=1", r"'optimizer.rate' is no field that can be searched -- these can: .*loss\.l1"),
        ("stages.0.epochs=1,2", r"no field that can be searched"),
        ("loss.l1=", r"--search loss\.l1: '': no values"),
        ("loss.l1=1,1", r"a value is given twice"),
        ("loss.l1=1:1", r"'1:1': an empty range, 1 is not below 1"),
        ("loss.l1=2:1", r"an empty range"),
        ("loss.l1=log:0:1", r"a logarithmic range begins above 0, not at 0"),
        ("loss.l1=a:b", r"expected \[log:\]LOW:HIGH"),
        ("loss.l1=0:inf", r"expected \[log:\]LOW:HIGH"),
        ("loss.l1=0:1:2:3", r"expected \[log:\]LOW:HIGH"),
        ("loss.l1=0:1:1", r"1 values, expected at least 2"),
        ("model.hidden-units=1:9", r"its values must be listed, such as model\.hidden-units=A,B,C"),
        ("seed=0:9", r"its values must be listed"),
    ],
)
def test_what_cannot_be_read(text: str, words: str):
    with pytest.raises(UsageError, match=words):
        parse_space([text])


def test_a_field_twice():
    with pytest.raises(UsageError, match=r"loss\.l2 is given twice"):
        parse_space(["loss.l2=1,2", "loss.l2=3"])


def test_grid():
    space = parse_space(["loss.l1=0,1", "seed=3,4"])
    assert grid(space) == [{"loss.l1": l1, "seed": seed} for l1 in (0, 1) for seed in (3, 4)]
    with pytest.raises(UsageError, match=r"loss\.l1: a grid needs values, not a range -- .*loss\.l1=log:0\.1:1:5"):
        grid(parse_space(["loss.l1=log:0.1:1"]))


def test_draws():
    """Within the ranges, uniform in what is meant to be, different, and the same again from the same seed."""
    space = parse_space(["loss.l1=log:1e-4:1", "loss.l2=0:1", "seed=1,2"])
    drawn = draw(space, 2000, seed=0)
    assert drawn == draw(space, 2000, seed=0)
    assert drawn[:10] != draw(space, 10, seed=1)
    assert len({tuple(one.values()) for one in drawn}) == 2000
    below = sum(one["loss.l1"] < 1e-2 for one in drawn) / 2000
    # The middle of the logarithms; 0.0112 is the standard deviation of a share of 2,000.
    assert below == pytest.approx(0.5, abs=0.05)
    assert sum(one["loss.l2"] for one in drawn) / 2000 == pytest.approx(0.5, abs=0.03)
    assert all(1e-4 <= one["loss.l1"] <= 1 and 0 <= one["loss.l2"] <= 1 for one in drawn)
    assert all(float(f"{one['loss.l1']:.4g}") == one["loss.l1"] for one in drawn)


def test_draws_from_lists():
    space = parse_space(["loss.l1=0,1", "seed=1,2,3"])
    assert len({tuple(one.values()) for one in draw(space, 6, seed=0)}) == 6
    with pytest.raises(UsageError, match="7, but there are only 6 configurations"):
        draw(space, 7, seed=0)


def test_every_field_is_one_of_the_experiment():
    for field in (*NUMBERS, SEED, *STRUCTURE):
        value_of(BASE, field)
    # A number in a compiled program must be one in the experiment.
    filled = dataclasses.replace(
        BASE,
        optimizer=Optimizer(clip_norm=1.0, max_norm=1.0),
        stages=(Stage(learning_rate=1e-3),),
    )
    assert all(isinstance(value_of(filled, field), float) for field in NUMBERS)


def test_configure():
    found = configure(BASE, {"optimizer.learning_rate": 1, "model.hidden_units": 64, "stages.0.learning_rate": 1e-3})
    expected = dataclasses.replace(
        BASE,
        optimizer=Optimizer(learning_rate=1.0),
        model=Model(hidden_units=64),
        stages=(Stage(learning_rate=1e-3),),
    )
    assert found == expected
    # A search may reach an experiment through steps that none of its fields could take alone.
    assert configure(BASE, {"optimizer.nesterov": True, "optimizer.momentum": 0.9, "optimizer.kind": "sgd"})


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        ("optimizer.learning_rate", "fast", r"--search.*'optimizer\.learning_rate' is 'fast', expected float"),
        ("optimizer.learning_rate", -1.0, r"--search optimizer\.learning_rate: -1\.0: expected more than 0"),
        ("model.hidden_units", 1.5, r"'model\.hidden_units' is 1\.5, expected int"),
        ("model.dropout_rate", 1.0, r"0 to below 1"),
        ("seed", 2**32, r"0 to 2\*\*32 - 1"),
        ("optimizer.momentum", 0.9, r"does nothing with adam"),
    ],
)
def test_values_that_a_field_cannot_have(field: str, value: object, words: str):
    with pytest.raises(UsageError, match=words):
        configure(BASE, {field: value})


@pytest.mark.parametrize(
    ("changes", "search", "words"),
    [
        ({"stages": (Stage(), Stage(freeze_layers=16))}, "loss.l1=0,1", r"stages: 2 stages: only a single stage"),
        ({"stages": (Stage(freeze_layers=16),)}, "loss.l1=0,1", r"stages\.0\.freeze-layers: 16: only a single stage"),
        ({"stages": (Stage(learning_rate=1.0),)}, "optimizer.learning-rate=1,2", r"the stage has a learning rate of"),
        ({"checkpoints": Checkpoints()}, "loss.positive-weight=1,2", r"losses with different weights do not compare"),
        ({"weights": "random"}, "seed=1,2", r"seed: every seed would draw convolutions"),
        ({"augmentation": Augmentation(), "cache": Cache(views=2)}, "seed=1,2", r"seed: every seed would need"),
        ({"augmentation": Augmentation()}, "loss.l1=0,1", r"cache\.views: 0: .* -- set --cache\.views 4, or 5"),
    ],
)
def test_what_cannot_be_swept(changes: dict, search: str, words: str):
    with pytest.raises(UsageError, match=words):
        check(dataclasses.replace(BASE, **changes), parse_space([search]))


def test_what_can_be_swept():
    check(BASE, parse_space(["loss.positive-weight=1,2", "seed=1,2"]))
    check(dataclasses.replace(BASE, loss=Loss(3.0)), parse_space(["optimizer.learning-rate=1e-4:1"]))
    with pytest.raises(UsageError, match="nothing to search"):
        check(BASE, {})
