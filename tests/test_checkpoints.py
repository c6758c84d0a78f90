"""Checkpoints: which are kept, what is restored, and what is refused; and the position that is saved with them."""

import dataclasses
import gc
import shutil
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from socialtag_jax.checkpoint_folder import MisfitError
from socialtag_jax.checkpoints import RunCheckpoints, like
from socialtag_jax.config import Checkpoints, Stage
from socialtag_jax.errors import UserError
from socialtag_jax.json_files import Fields
from socialtag_jax.parallel import Devices
from socialtag_jax.position import EpochSums, Position


def test_position():
    """Early stopping by hand: scores -3, -2, -2.5, -2 with patience 2."""
    stage, position = Stage(epochs=9), Position()
    history = []
    for step, score in enumerate([-3.0, -2.0, -2.5, -2.0], start=1):
        assert position.epoch_start == step - 1
        position = position.within_epoch(EpochSums(1, 2.0, 8.0)).after_epoch(score)
        history.append((position.best_score, position.stale_epochs, position.ended(stage, patience=2)))
    assert history == [(-3.0, 0, False), (-2.0, 0, False), (-2.0, 1, False), (-2.0, 2, True)]
    assert not position.ended(stage, patience=0)
    assert position.next_stage() == Position(stage=1, epoch=4, step=4)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("stage", -1, "field 'position.stage' is -1, expected a whole number of at least 0"),
        ("step", 2.5, "field 'position.step' is 2.5, expected"),
        ("step", None, "field 'position.step' is None, expected"),
        ("best_score", "high", "field 'position.best_score' is 'high', expected a number"),
        ("best_score", float("nan"), "field 'position.best_score' is nan, expected a number"),
        ("current", [], "field 'position.current' is [], expected an object"),
        ("current", {"steps": 9, "loss": 1.0, "images": 72.0}, "more was done of a part than of the whole"),
        ("epoch", 0, "more was done of a part than of the whole"),
    ],
)
def test_an_edited_position_is_refused(field: str, value: Any, message: str):
    position = Position(
        stage=1, stage_epoch=1, epoch=3, step=8, best_score=-float("inf"), current=EpochSums(2, 1.5, 16.0)
    )
    content = dataclasses.asdict(position)
    where = Path("checkpoints/8/meta")
    assert Position.from_json(Fields({"position": content}, where, "").fields("position")) == position
    with pytest.raises(UserError) as refused:
        Position.from_json(Fields({"position": {**content, field: value}}, where, "").fields("position"))
    assert message in str(refused.value)
    assert refused.value.where == str(where)


def quiet(folder: Path, config: Checkpoints | None = None, *, read_only: bool = False) -> RunCheckpoints:
    return RunCheckpoints(folder, config or Checkpoints(), log=lambda _: None, read_only=read_only)


@pytest.mark.parametrize(("monitor", "best", "kept"), [("loss", 2, [2, 4, 5]), ("f1", 3, [3, 4, 5])])
def test_checkpoints_keep_latest_and_best(tmp_path: Path, monitor: Any, best: int, kept: list[int]):
    """The best is kept beside the two newest, and one whose metric is no number is never the best."""
    devices = Devices(jax.local_devices()[:1])
    params = devices.replicate({"layer": {"kernel": np.arange(4, dtype=np.float32)}})
    nan = float("nan")
    metrics = [(nan, nan), (0.5, 0.1), (0.9, 0.6), (nan, nan), (0.8, 0.2)]
    with quiet(tmp_path / "checkpoints", Checkpoints(monitor=monitor)) as saved:
        for step, (loss, f1) in enumerate(metrics, start=1):
            saved.save(step, params, {"count": np.int32(step)}, {"step": step}, {"loss": loss, "f1": f1})
        assert saved.best_step() == best
    with quiet(tmp_path / "checkpoints", Checkpoints(monitor=monitor), read_only=True) as saved:
        assert saved.steps == kept
        assert (saved.best_step(), saved.latest_step()) == (best, 5)
        assert saved.meta(4).content == {"step": 4}
        restored = saved.restore_params(5, like(params, devices.replicated))
        np.testing.assert_array_equal(restored["layer"]["kernel"], np.arange(4))


@pytest.mark.parametrize(
    ("path", "changed", "message"),
    [
        ("layer/kernel", np.zeros((2, 2), np.float32), "layer/kernel is float32 [4], expected float32 [2, 2]"),
        ("layer/kernel", np.zeros(4, np.float16), "layer/kernel is float32 [4], expected float16 [4]"),
        ("layer/scale", np.zeros(4, np.float32), "layer/scale is not there, expected float32 [4]"),
        ("layer/bias", None, "layer/bias is float32 [2], expected no such array"),
    ],
)
def test_a_checkpoint_of_another_model_is_refused(tmp_path: Path, path: str, changed: Any, message: str):
    """By the array that differs; it is neither converted, nor passed over for an older one, nor deleted."""
    devices = Devices(jax.local_devices()[:1])
    params = devices.replicate({"layer": {"kernel": np.arange(4, dtype=np.float32), "bias": np.ones(2, np.float32)}})
    with quiet(tmp_path / "checkpoints") as saved:
        for step in (1, 2):
            saved.save(step, params, {"count": np.int32(step)}, {"step": step}, {"loss": 0.5, "f1": 0.5})
    layer, name = path.split("/")
    other = {layer: {one: leaf for one, leaf in {**params[layer], name: changed}.items() if leaf is not None}}
    with quiet(tmp_path / "checkpoints") as saved:
        with pytest.raises(MisfitError) as refused:
            saved.restore_params(2, like(other, devices.replicated))
        assert refused.value.what == message
        assert refused.value.where == str(tmp_path / "checkpoints" / "2" / "params")
        optimizer = like({"count": np.int32(0)}, devices.replicated)
        with pytest.raises(MisfitError):
            saved.restore_newest(lambda _: (like(other, devices.replicated), optimizer, None))
        assert saved.steps == [1, 2]


@pytest.mark.parametrize("part", ["params", "optimizer", "meta"])
def test_a_damaged_newest_checkpoint_is_walked_back_over(tmp_path: Path, part: str):
    """Whatever part of it is broken; and the run's next checkpoint can take its place."""
    devices = Devices(jax.local_devices()[:1])
    params = devices.replicate({"layer": {"kernel": np.arange(4000, dtype=np.float32)}})
    state = devices.replicate({"count": np.arange(4000, dtype=np.int32)})
    likes = (like(params, devices.replicated), like(state, devices.replicated), None)
    folder = tmp_path / "checkpoints"
    with quiet(folder) as saved:
        for step in (1, 2):
            saved.save(step, params, state, {"step": step}, {"loss": 1.0 / step, "f1": 0.0})
    for path in (folder / "2" / part).rglob("*"):
        if path.is_file():
            path.write_bytes(path.read_bytes()[:10])
    lines: list[str] = []
    with RunCheckpoints(folder, Checkpoints(), log=lines.append) as saved:
        restored = saved.restore_newest(lambda _: likes)
        assert restored is not None
        assert (restored.step, restored.meta.content) == (1, {"step": 1})
        np.testing.assert_array_equal(restored.params["layer"]["kernel"], np.arange(4000))
        saved.save(2, params, state, {"step": 2, "again": True}, {"loss": 0.5, "f1": 0.0})
    assert len(lines) == 1
    assert f"{folder / '2'}: the checkpoint is damaged" in lines[0]
    with quiet(folder, read_only=True) as saved:
        assert saved.meta(2).content == {"step": 2, "again": True}


@pytest.mark.parametrize("place", ["disk", "bucket"])
def test_a_step_is_damaged_twice(request: pytest.FixtureRequest, tmp_path: Path, place: str):
    """What was moved aside the first time gives way to what is moved aside the second time."""
    folder: Any = request.getfixturevalue("bucket").root if place == "bucket" else tmp_path
    folder = folder / "run/checkpoints"
    devices = Devices(jax.local_devices()[:1])
    params = devices.replicate({"layer": {"kernel": np.arange(8, dtype=np.float32)}})
    likes = (like(params, devices.replicated), like(params, devices.replicated), None)
    with quiet(folder) as saved:
        saved.save(1, params, params, {"step": 1}, {"loss": 1.0, "f1": 0.0})
    for attempt in ("first", "second"):
        with quiet(folder) as saved:
            saved.save(2, params, params, {"step": 2, "attempt": attempt}, {"loss": 0.5, "f1": 0.0})
        meta = folder / "2/meta/metadata"
        meta.write_bytes(meta.read_bytes().replace(b"step", b"stop"))
        with quiet(folder) as saved:
            restored = saved.restore_newest(lambda _: likes)
            assert restored is not None
            assert restored.step == 1
            assert saved.steps == [1]
        assert attempt.encode() in (folder / "damaged-2/meta/metadata").read_bytes()


# Of two arrays that cannot be read, orbax awaits the first alone.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("part", ["params", "optimizer", "meta"])
def test_a_bit_that_flips_in_a_checkpoint_is_found(tmp_path: Path, part: str):
    """In any of its files: what comes back is what was written, or the checkpoint before."""
    devices = Devices(jax.local_devices()[:1])
    rng = np.random.default_rng(0)
    params = devices.replicate({"layer": {"kernel": rng.standard_normal((64, 64), np.float32)}})
    state = devices.replicate({"mu": rng.standard_normal(4000, np.float32)})
    likes = (like(params, devices.replicated), like(state, devices.replicated), None)
    with quiet(tmp_path / "whole") as saved:
        for step in (1, 2):
            saved.save(step, params, state, {"step": step, "tags": ["sea"]}, {"loss": 1.0 / step, "f1": 0.0})
    files = [path for path in (tmp_path / "whole" / "2" / part).rglob("*") if path.is_file() and path.stat().st_size]
    damaged = 0
    for number, path in enumerate(sorted(files) * 3):
        folder = tmp_path / str(number)
        shutil.copytree(tmp_path / "whole", folder)
        target = folder / path.relative_to(tmp_path / "whole")
        content = bytearray(target.read_bytes())
        content[rng.integers(len(content))] ^= 1 << int(rng.integers(8))
        target.write_bytes(content)
        with quiet(folder) as saved:
            restored = saved.restore_newest(lambda _: likes)
        assert restored is not None
        assert restored.meta.content == {"step": restored.step, "tags": ["sea"]}
        assert (
            np.asarray(restored.params["layer"]["kernel"]).tobytes() == np.asarray(params["layer"]["kernel"]).tobytes()
        )
        assert np.asarray(restored.optimizer_state["mu"]).tobytes() == np.asarray(state["mu"]).tobytes()
        damaged += restored.step == 1
        assert (folder / "damaged-2").exists() == (restored.step == 1)
    assert damaged
    gc.collect()


def test_an_error_that_passes_costs_no_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    devices = Devices(jax.local_devices()[:1])
    params = devices.replicate({"layer": {"kernel": np.arange(4, dtype=np.float32)}})
    state = devices.replicate({"count": np.int32(1)})
    likes = (like(params, devices.replicated), like(state, devices.replicated), None)
    for error in (PermissionError(13, "Permission denied"), ValueError("UNAVAILABLE: Socket closed"), MemoryError()):
        folder = tmp_path / type(error).__name__
        with quiet(folder) as saved:
            for step in (1, 2):
                saved.save(step, params, state, {"step": step}, {"loss": 1.0 / step, "f1": 0.0})
        with quiet(folder) as saved, monkeypatch.context() as patch:

            def fail(*_: Any, error: Exception = error, **__: Any) -> Any:
                raise error

            patch.setattr(saved.of(2)._manager, "restore", fail)
            with pytest.raises(UserError, match="the checkpoint cannot be read now"):
                saved.restore_newest(lambda _: likes)
        with quiet(folder) as saved:
            assert saved.steps == [1, 2]


def test_a_step_is_validated_before_what_it_had_is_given_up(tmp_path: Path):
    """Saved within its epoch and again when it was validated; at no time is neither there."""
    devices = Devices(jax.local_devices()[:1])
    params = devices.replicate({"layer": {"kernel": np.arange(4, dtype=np.float32)}})
    likes = (like(params, devices.replicated), like({"count": np.int32(1)}, devices.replicated), None)
    folder = tmp_path / "checkpoints"
    with quiet(folder) as saved:
        for meta in ("within", "again"):
            saved.save(3, params, {"count": np.int32(3)}, {"meta": meta}, None)
    with quiet(folder) as saved:
        assert (saved.steps, saved.best_step(), saved.latest_step()) == ([3], 3, 3)
        assert saved.meta(3).content == {"meta": "within"}
        saved.save(3, params, {"count": np.int32(3)}, {"meta": "validated"}, {"loss": 0.5, "f1": 0.5})
        assert (folder / "within_epoch" / "3" / "params").is_dir()
    with quiet(folder) as saved:
        restored = saved.restore_newest(lambda _: likes)
        assert restored is not None
        assert restored.meta.content == {"meta": "validated"}
        saved.save(5, params, {"count": np.int32(5)}, {"meta": "within"}, None)
    with quiet(folder, read_only=True) as saved:
        assert (saved.steps, saved.best_step(), saved.latest_step()) == ([3, 5], 3, 5)


def test_no_readable_checkpoint_at_all(tmp_path: Path):
    with quiet(tmp_path / "checkpoints") as saved:
        assert saved.restore_newest(lambda _: (None, None, None)) is None
