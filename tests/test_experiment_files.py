"""Experiments: files, overrides, round trips, and the words of their errors."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from socialtag_jax import experiment_files
from socialtag_jax.config import Checkpoints, Experiment, Loss, Model, Optimizer, Schedule, Stage
from socialtag_jax.errors import UsageError, UserError
from tests.attempts import attempt

EXPERIMENT = Experiment(name="one", stages=(Stage(epochs=3), Stage(freeze_layers=16, learning_rate=1e-5)))
FILES = sorted((Path(__file__).parents[1] / "experiments").glob("*.py"))


def as_json(experiment: Experiment) -> Any:
    return json.loads(json.dumps(dataclasses.asdict(experiment)))


def test_json_round_trip():
    assert experiment_files.from_dict(as_json(EXPERIMENT), "here") == EXPERIMENT


@pytest.mark.parametrize(
    ("path", "value", "words"),
    [
        (("seed",), "zero", r"here: field 'seed' is 'zero', expected int"),
        (("seed",), True, r"field 'seed' is True, expected int"),
        (("modle",), {}, r"unknown field 'modle', expected name, seed"),
        (("model", "size"), 224, r"unknown field 'model\.size', expected input_size"),
        (("model", "compute_dtype"), "float8", r"'model\.compute_dtype' is 'float8', expected one of"),
        (("stages",), {}, r"field 'stages' is \{\}, expected a list"),
        (("stages", 1, "epochs"), 2.5, r"field 'stages\.1\.epochs' is 2\.5, expected int"),
        (("loss",), [], r"field 'loss' is \[\], expected an object"),
        (("loss", "positive_weight"), -1, r"loss\.positive_weight: -1\.0: expected more than 0"),
    ],
)
def test_wrong_fields_are_named(path: tuple, value: object, words: str):
    content = as_json(EXPERIMENT)
    part = content
    for key in path[:-1]:
        part = part[key]
    part[path[-1]] = value
    with pytest.raises(UserError, match=words):
        experiment_files.from_dict(content, "here")


WRONG: tuple[Any, ...] = (None, True, -1, 2.5, "x", [], {}, [[]], 10**400, float("nan"), float("inf"))


def leaves(content: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    items = content.items() if isinstance(content, dict) else enumerate(content) if isinstance(content, list) else ()
    return [path, *(leaf for key, item in items for leaf in leaves(item, (*path, key)))]


def test_any_field_of_any_kind():
    """Every field in turn, every kind of wrong value: the error, or an experiment that is written back as it was."""
    tried = refused = 0
    for path in leaves(as_json(EXPERIMENT))[1:]:
        for wrong in WRONG:
            content = part = as_json(EXPERIMENT)
            for key in path[:-1]:
                part = part[key]
            part[path[-1]] = wrong
            experiment, error = attempt(lambda content=content: experiment_files.from_dict(content, "here"))
            tried += 1
            refused += error is not None
            if error is None:
                assert as_json(experiment) == as_json(experiment_files.from_dict(as_json(experiment), "here"))
                found = as_json(experiment)
                for key in path:
                    found = found[key]
                assert found == (list(wrong) if isinstance(wrong, tuple) else wrong) or wrong == {}
    assert tried > 500
    assert refused > 0.8 * tried


def test_overrides():
    changed = experiment_files.override(
        EXPERIMENT, ["--optimizer.learning-rate", "3e-4", "--stages.1.epochs", "7"], prog="train"
    )
    assert changed.optimizer.learning_rate == 3e-4
    assert [stage.epochs for stage in changed.stages] == [3, 7]
    assert changed.learning_rate(changed.stages[0]) == 3e-4
    assert changed.learning_rate(changed.stages[1]) == 1e-5


@pytest.mark.parametrize(
    ("arguments", "part", "expected"),
    [
        ("--loss.l1 1e-5", "loss", Loss(l1=1e-5)),
        ("--loss.l2 1e-4", "loss", Loss(l2=1e-4)),
        ("--model.dropout-rate 0.3", "model", Model(dropout_rate=0.3)),
        ("--checkpoints.patience 3", "checkpoints", Checkpoints(patience=3)),
        ("--optimizer.kind sgd", "optimizer", Optimizer(kind="sgd")),
        ("--optimizer.kind sgd --optimizer.momentum 0.9", "optimizer", Optimizer(kind="sgd", momentum=0.9)),
        (
            "--optimizer.kind sgd --optimizer.momentum 0.9 --optimizer.nesterov",
            "optimizer",
            Optimizer(kind="sgd", momentum=0.9, nesterov=True),
        ),
        ("--optimizer.weight-decay 0.01", "optimizer", Optimizer(weight_decay=0.01)),
        ("--optimizer.clip-norm 1", "optimizer", Optimizer(clip_norm=1.0)),
        ("--optimizer.max-norm 3", "optimizer", Optimizer(max_norm=3.0)),
        ("--optimizer.ema-decay 0.99", "optimizer", Optimizer(ema_decay=0.99)),
        ("--optimizer.schedule.kind cosine", "optimizer", Optimizer(schedule=Schedule("cosine"))),
        ("--optimizer.schedule.warmup-epochs 0.5", "optimizer", Optimizer(schedule=Schedule(warmup_epochs=0.5))),
        (
            "--optimizer.schedule.kind linear --optimizer.schedule.final-share 0.1",
            "optimizer",
            Optimizer(schedule=Schedule("linear", 0.1)),
        ),
    ],
)
def test_each_regulariser_and_optimizer_is_one_flag(arguments: str, part: str, expected: object):
    """And comes back from JSON as it went."""
    changed = experiment_files.override(EXPERIMENT, arguments.split(), prog="train")
    assert changed == dataclasses.replace(EXPERIMENT, **{part: expected})
    assert experiment_files.from_dict(as_json(changed), "here") == changed


def test_an_override_that_does_nothing_is_refused():
    with pytest.raises(UsageError, match=r"optimizer\.momentum: 0\.9: expected 0\.0, as it does nothing with adam"):
        experiment_files.override(EXPERIMENT, ["--optimizer.momentum", "0.9"], prog="train")


def test_unknown_override_is_a_usage_error(capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit) as error:
        experiment_files.override(EXPERIMENT, ["--optimiser.rate", "1"], prog="train")
    assert error.value.code == 2
    assert "--optimiser.rate" in "".join(capsys.readouterr())


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (None, "no such experiment file"),
        ("x = 1", "assigns no Experiment to the name `experiment`"),
        ("import nonsense_module", "the experiment file fails: ModuleNotFoundError"),
        ("from socialtag_jax.config import *\nexperiment = Experiment(name='a', seed=-1)", r"seed: -1: expected 0 to"),
    ],
)
def test_bad_experiment_files(tmp_path: Path, text: str | None, words: str):
    path = tmp_path / "mine.py"
    if text is not None:
        path.write_text(text)
    with pytest.raises(UserError, match=rf"mine\.py: .*{words}|mine\.py: {words}"):
        experiment_files.load_experiment(path)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ("name=5", "field 'name' is 5, expected str"),
        ("seed=1.5", r"field 'seed' is 1\.5, expected int"),
        ("seed=True", "field 'seed' is True, expected int"),
        ("optimizer=Optimizer(kind='adamw')", r"optimizer\.|'optimizer\.kind' is 'adamw', expected one of"),
        ("optimizer=Optimizer(learning_rate='1e-3')", "the experiment file fails: TypeError"),
        ("optimizer=Optimizer(learning_rate=float('inf'))", r"'optimizer\.learning_rate' is inf, expected float"),
        ("augmentation=Augmentation(enabled='no')", r"'augmentation\.enabled' is 'no', expected bool"),
        ("input=Input(batch_size=8.5)", r"'input\.batch_size' is 8\.5, expected int"),
        ("cache=Cache(views=1, dtype='float64')", r"'cache\.dtype' is 'float64', expected one of"),
        ("checkpoints=Checkpoints(monitor='f2')", r"'checkpoints\.monitor' is 'f2', expected one of"),
        ("model=Model(compute_dtype='float8')", r"'model\.compute_dtype' is 'float8', expected one of"),
        ("stages=(Stage(epochs=2.0),)", r"'stages\.0\.epochs' is 2\.0, expected int"),
        ("stages=Stage()", "the experiment file fails: TypeError"),
        ("model={'size': 64}", r"unknown field 'model\.size'"),
        ("weights=None", "field 'weights' is None, expected str"),
        ("debug_batches='4'", "the experiment file fails: TypeError"),
        ("loss=Loss(positive_weight=lambda: 1)", "the experiment file fails: TypeError"),
    ],
)
def test_experiment_files_with_fields_of_another_type(tmp_path: Path, fields: str, words: str):
    path = tmp_path / "mine.py"
    path.write_text(
        f"from socialtag_jax.config import *\nexperiment = Experiment(**{{'name': 'a'}} | dict({fields}))\n"
    )
    with pytest.raises(UserError, match=words) as caught:
        experiment_files.load_experiment(path)
    assert "mine.py" in str(caught.value.where)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_shipped_experiments_load_and_open_with_their_command(path: Path):
    text = path.read_text()
    if "experiment = Experiment(" not in text:
        pytest.skip("a program, not an experiment")
    experiment = experiment_files.load_experiment(path)
    assert experiment.name == path.stem
    assert f"Command:  socialtag train experiments/{path.name} --dataset " in text
