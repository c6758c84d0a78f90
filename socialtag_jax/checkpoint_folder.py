"""One folder of orbax checkpoints: each is read back as it was written, or refused.

orbax and TensorStore notice when files are missing or cut off, but not when a bit of an array has changed, nor when an
array is restored with another dtype. So each checkpoint has the CRC-32C of all its arrays, and of its meta.
"""

import contextlib
import json
import re
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import google_crc32c
import jax
import numpy as np
import orbax.checkpoint as ocp

from socialtag_jax.errors import UserError
from socialtag_jax.gcs import RemotePath, first_line
from socialtag_jax.json_files import Fields
from socialtag_jax.progress import format_bytes
from socialtag_jax.storage import Location, checkpoint_folder

_ONE_PROCESS = ocp.options.MultiprocessingOptions(
    primary_host=0, active_processes={0}, barrier_sync_key_prefix="process-0"
)
"""Process 0 alone reads and writes checkpoints: the others need not see its folder, and it never waits for them."""

_META, _CHECKSUMS = "meta", "checksums"
_GO_ON = "run the same command again: it goes on from the newest that is complete"
_DAMAGED = "start again in a new --workdir, or from another checkpoint of this one"
_PASSING = re.compile(
    "UNAVAILABLE|PERMISSION_DENIED|UNAUTHENTICATED|RESOURCE_EXHAUSTED|DEADLINE_EXCEEDED|ABORTED|CANCELLED"
)
"""In the messages of TensorStore: what says nothing about the files."""


class DamagedError(UserError):
    """A checkpoint whose files are not what was written."""


class MisfitError(UserError):
    """A checkpoint that can be read, but is of another model or data set."""


class CheckpointFolder:
    """The checkpoints of a folder, each with arrays in named items and a JSON meta.

    Args:
      folder: theirs alone, but for folders in it that have no number for a name.
      options: which are kept, and which are the best.
      read_only: nothing is written, made or cleaned up.
    """

    def __init__(self, folder: Location, options: Mapping[str, Any], *, read_only: bool) -> None:
        self._folder = folder
        if not read_only and isinstance(folder, Path):
            folder.mkdir(parents=True, exist_ok=True)
        json_items = (_META, _CHECKSUMS)
        array_items = ("params", "optimizer", "average")
        handlers = {
            **{name: ocp.StandardCheckpointHandler(multiprocessing_options=_ONE_PROCESS) for name in array_items},
            **{name: ocp.JsonCheckpointHandler(multiprocessing_options=_ONE_PROCESS) for name in json_items},
        }
        manager_options = ocp.CheckpointManagerOptions(
            **options,
            read_only=read_only,
            create=False,
            cleanup_tmp_directories=not read_only,
            multiprocessing_options=_ONE_PROCESS,
        )
        with self._access():
            self._manager = ocp.CheckpointManager(
                checkpoint_folder(folder), options=manager_options, item_handlers=handlers
            )

    def close(self) -> None:
        """Waits for what is being saved; every way out needs it."""
        with self._access():
            try:
                self._manager.wait_until_finished()
            finally:
                self._manager.close()

    @property
    def steps(self) -> list[int]:
        """All steps that have a checkpoint, ascending."""
        return sorted(self._manager.all_steps())

    def best_step(self) -> int | None:
        """The best of them; None where none has metrics."""
        return self._manager.best_step()

    def wait(self) -> None:
        """Until what is being saved is there.

        Raises:
          UserError: it could not be written.
        """
        with self._access():
            self._manager.wait_until_finished()

    def save(
        self, step: int, items: Mapping[str, Any], meta: Mapping[str, Any], metrics: Mapping[str, float] | None
    ) -> None:
        """Starts saving; the arrays are copied before this returns, and written in the background.

        Args:
          step: greater than those of all checkpoints before.
          items: trees of arrays by name: "params", "optimizer", "average".
          meta: anything that is JSON.
          metrics: that the options rank by.

        Raises:
          UserError: the disk has no room for it.
        """
        self._require_room(sum(leaf.nbytes for leaf in jax.tree.leaves(items)))
        own = {name: _own_copy(tree) for name, tree in items.items()}
        checksums = {_META: _text_checksum(meta), **{name: _checksums(tree) for name, tree in own.items()}}
        with self._access():
            saved = self._manager.save(
                step,
                args=ocp.args.Composite(
                    **{name: ocp.args.StandardSave(tree) for name, tree in own.items()},
                    **{_META: ocp.args.JsonSave(dict(meta)), _CHECKSUMS: ocp.args.JsonSave(checksums)},
                ),
                metrics=None if metrics is None else dict(metrics),
            )
        if not saved:  # orbax leaves a step out that is not newer than all others
            raise AssertionError(f"orbax did not save step {step}; its steps are {self.steps}")

    def meta(self, step: int) -> Fields:
        """The JSON meta of a checkpoint.

        Raises:
          DamagedError: it is not what was written.
          UserError: it cannot be read now.
        """
        where = self._folder / str(step) / _META
        items = self._read(step, {_META: ocp.args.JsonRestore(), _CHECKSUMS: ocp.args.JsonRestore()})
        content = items[_META]
        if items[_CHECKSUMS].get(_META) != _text_checksum(content):
            raise DamagedError("the checkpoint is damaged: its checksum does not match", where=where, hint=_DAMAGED)
        return Fields(content, where, _DAMAGED)

    def restore(self, step: int, likes: Mapping[str, Any]) -> Mapping[str, Any]:
        """The trees of some items.

        Args:
          step: of the checkpoint.
          likes: item -> its shapes, dtypes and shardings (`jax.ShapeDtypeStruct` leaves).

        Raises:
          MisfitError: the checkpoint has other arrays; names the first.
          DamagedError: they are not what was written.
          UserError: they cannot be read now.
        """
        with self._reading(step):
            metadata = self._manager.item_metadata(step)
            stored = {item: _arrays(metadata[item].tree) for item in likes}
        for item, like in likes.items():
            _require_same(stored[item], _arrays(like), self._folder / str(step) / item)
        arrays = {name: ocp.args.StandardRestore(like) for name, like in likes.items()}
        items = self._read(step, {**arrays, _CHECKSUMS: ocp.args.JsonRestore()})
        for item in likes:
            written = items[_CHECKSUMS].get(item, {})
            for path, checksum in _checksums(items[item]).items():
                if written.get(path) != checksum:
                    what = f"the checkpoint is damaged: the checksum of {path} does not match"
                    raise DamagedError(what, where=self._folder / str(step) / item, hint=_DAMAGED)
        return items

    def move_aside(self, step: int) -> None:
        """Renames a damaged checkpoint, which would stand in the way of the next ones, to `damaged-STEP`."""
        with self._access():
            folder = checkpoint_folder(self._folder)
            target = folder / f"damaged-{step}"
            if target.exists():  # this step was damaged once before
                target.rmtree() if isinstance(self._folder, RemotePath) else shutil.rmtree(target)
            (folder / str(step)).rename(target)
            self._manager.reload()

    def _read(self, step: int, args: Mapping[str, Any]) -> Mapping[str, Any]:
        with self._reading(step):
            return self._manager.restore(step, args=ocp.args.Composite(**args))

    @contextlib.contextmanager
    def _reading(self, step: int) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # on damaged files orbax and TensorStore raise nearly anything
            where = self._folder / str(step)
            if _is_passing(error):
                what = f"the checkpoint cannot be read now: {first_line(error)}"
                raise UserError(what, where=where, hint="when that is mended, run the same command again") from error
            raise DamagedError(f"the checkpoint is damaged: {first_line(error)}", where=where, hint=_DAMAGED) from error

    def _require_room(self, nbytes: int) -> None:
        """Before orbax begins: it writes many files at once, and would say much about each that fails."""
        if isinstance(self._folder, RemotePath):
            return
        free = shutil.disk_usage(self._folder).free
        if nbytes > free:
            need = f"a checkpoint needs {format_bytes(nbytes)}, and {format_bytes(free)} are free"
            raise UserError(
                f"No space left on device: {need}",
                where=self._folder,
                hint=f"make room; then {_GO_ON}",
            )

    @contextlib.contextmanager
    def _access(self) -> Iterator[None]:
        """Makes one line of what the libraries below orbax raise, of many kinds, when they cannot write or read."""
        try:
            yield
        except UserError:
            raise
        except Exception as error:
            what = f"the checkpoints cannot be reached: {first_line(error)}"
            raise UserError(what, where=self._folder, hint=_GO_ON) from error


def _is_passing(error: Exception) -> bool:
    """Whether an error says nothing about the files: that they are intact is then still to be found out."""
    gone = FileNotFoundError | NotADirectoryError | IsADirectoryError
    if isinstance(error, MemoryError | OSError) and not isinstance(error, gone):
        return True
    return bool(_PASSING.search(str(error)))


def _leaves(tree: Any) -> Iterator[tuple[str, Any]]:
    """The arrays of a tree with their paths, as `block5_conv3/kernel`."""
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        yield jax.tree_util.keystr(path, simple=True, separator="/"), leaf


def _arrays(tree: Any) -> dict[str, str]:
    """The path of each array in a tree -> its dtype and shape."""
    return {path: f"{leaf.dtype} {list(leaf.shape)}" for path, leaf in _leaves(tree)}


def _require_same(stored: Mapping[str, str], expected: Mapping[str, str], where: Location) -> None:
    """Orbax would convert other dtypes without a word, and does not name the array whose shape differs."""
    for path in sorted({*stored, *expected}):
        if stored.get(path) != expected.get(path):
            raise MisfitError(
                f"{path} is {stored.get(path, 'not there')}, expected {expected.get(path, 'no such array')}",
                where=where,
                hint="the checkpoint is of another model; use a new --workdir for this one",
            )


def _own_copy(tree: Any) -> Any:
    """Arrays that other processes have copies of as this process's own: orbax would have all processes write them."""
    return jax.tree.map(
        lambda leaf: np.array(leaf) if isinstance(leaf, jax.Array) and not leaf.is_fully_addressable else leaf, tree
    )


def _checksums(tree: Any) -> dict[str, int]:
    """The path of each array in a tree -> the CRC-32C of its values in C order."""
    return {path: google_crc32c.value(np.asarray(leaf).tobytes()) for path, leaf in _leaves(tree)}


def _text_checksum(content: Any) -> int:
    """The CRC-32C of JSON in one spelling."""
    return google_crc32c.value(json.dumps(content, sort_keys=True).encode())
