"""Features of a split's records on disk: rows in memory-mapped shards, each row with its tags and a checksum.

A folder holds one view of one split under one key. The key is all that the features depend on: where any of it differs,
the folder is another one, so that no stale features are ever found.
"""

import hashlib
import json
import math
from collections.abc import Generator, Iterator, Mapping
from pathlib import Path
from typing import Any

import google_crc32c
import numpy as np

from socialtag_jax import files, json_files
from socialtag_jax.errors import UserError

FORMAT = 3
"""Of the files, and of how pixels and features are computed: raise it when either changes."""

KEY, SKIPPED_RECORDS = "key.json", "skipped.json"
SKIPPED = -2
"""In place of every tag index of a row whose record is damaged, and was skipped when features were computed."""

_SHARD_BYTES = 2**26
_SHARD_ROWS = 512
"""At 5 images/s, a kill loses less than two minutes."""
_MOST_SHARDS = 256
"""Each holds a file open."""


class FeatureView:
    """The features of one split, as one view of its images.

    Args:
      root: the folder of all views.
      name: for people: what the folder's name begins with.
      key: all that the features depend on; JSON.
      feature_shape: of one record's features.
      dtype: of the features on disk, float32 or float16.
      max_tags: room for tag indices.
      records: how many the split has.
    """

    def __init__(
        self,
        root: Path,
        name: str,
        key: Mapping[str, Any],
        *,
        feature_shape: tuple[int, ...],
        dtype: str,
        max_tags: int,
        records: int,
    ) -> None:
        self._row = np.dtype(
            [
                ("features", np.dtype(dtype).newbyteorder("<"), feature_shape),
                ("tag_ids", "<i4", (max_tags,)),
                ("checksum", "<u4"),
            ]
        )
        self._records = records
        by_size = max(1, min(_SHARD_ROWS, _SHARD_BYTES // self._row.itemsize))
        self._shard_rows = max(by_size, -(-records // _MOST_SHARDS))
        content = {"format": FORMAT, **key, "rows": str(self._row), "records": records}
        self._key = json.dumps(content, indent=1, sort_keys=True) + "\n"
        self.folder = root / f"{name}-{hashlib.sha256(self._key.encode()).hexdigest()[:16]}"
        self._shards: dict[int, np.memmap] = {}

    def __len__(self) -> int:
        return self._records

    @property
    def nbytes(self) -> int:
        """Size on disk when it is complete."""
        return self._records * self._row.itemsize

    @property
    def missing_bytes(self) -> int:
        """How much of that is still to be written."""
        return sum(len(rows) for rows in self.missing()) * self._row.itemsize

    def missing(self) -> list[range]:
        """The runs of records that have no features yet; each begins where a shard does."""
        return self.runs(self.absent())

    def absent(self) -> np.ndarray:
        """Which shards are not there, bool [shards]."""
        self._check_key()
        return np.array([not self._is_complete(start) for start in range(0, self._records, self._shard_rows)], bool)

    def runs(self, absent: np.ndarray) -> list[range]:
        """The runs of records in those shards, bool [shards]; each begins where a shard does."""
        runs: list[range] = []
        for start in (np.flatnonzero(absent) * self._shard_rows).tolist():
            stop = min(start + self._shard_rows, self._records)
            if runs and runs[-1].stop == start:
                runs[-1] = range(runs[-1].start, stop)
            else:
                runs.append(range(start, stop))
        return runs

    def write(self, start: int, parts: Iterator[tuple[np.ndarray, np.ndarray]]) -> Generator[int]:
        """Writes consecutive records; each shard appears when it is complete.

        Args:
          start: the first record, where a shard begins.
          parts: (features [n, ...], tag ids int32 [n, max_tags]) of the records that follow each other; the tag ids of
            skipped ones are `SKIPPED`.

        Yields:
          how many records each part had.

        Raises:
          UserError: a feature is no finite number, or too large for float16.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        files.sweep(self.folder)
        files.write_text(self.folder / KEY, self._key)
        shard, filled = self._empty_shard(start), 0
        for features, tag_ids in parts:
            done = 0
            while done < len(features):
                take = min(len(features) - done, len(shard) - filled)
                rows = shard[filled : filled + take]
                rows["features"] = self._stored(features[done : done + take])
                rows["tag_ids"] = tag_ids[done : done + take]
                rows["checksum"] = [_checksum(row) for row in rows]
                done, filled = done + take, filled + take
                if filled == len(shard):
                    # Listed before they are there: rows that nobody knows to be skipped would be trained on.
                    self._list_skipped(start + np.flatnonzero(shard["tag_ids"][:, 0] == SKIPPED))
                    files.write_bytes(self._path(start), shard.tobytes())
                    start += len(shard)
                    shard, filled = self._empty_shard(start), 0
            yield len(features)

    def rows(self, indices: np.ndarray) -> np.ndarray:
        """Records' rows, [indices], with the fields "features" and "tag_ids".

        Raises:
          UserError: a row's checksum does not match, or it is that of a skipped record that is not in the list of them.
        """
        found = np.empty(len(indices), self._row)
        numbers, offsets = np.divmod(indices, self._shard_rows)
        for number in np.unique(numbers).tolist():
            here = numbers == number
            found[here] = self._shard(number * self._shard_rows)[offsets[here]]
        for index, row in zip(indices, found, strict=True):
            if row["checksum"] != _checksum(row):
                raise UserError(
                    f"the checksum of record {index}'s features does not match: the file is damaged",
                    where=self._path(int(index) // self._shard_rows * self._shard_rows),
                    hint="delete the file and run the same command again: its features are then computed again",
                )
        skipped = set(indices[found["tag_ids"][:, 0] == SKIPPED].tolist())
        if skipped and not skipped <= set(self.skipped()):
            raise UserError(
                f"does not list record {min(skipped - set(self.skipped()))}, whose features are those of a damaged one",
                where=self.folder / SKIPPED_RECORDS,
                hint="delete the folder and run the same command again: its features are then computed again",
            )
        return found

    def skipped(self) -> list[int]:
        """The records that were damaged when their features were computed, and skipped."""
        path = self.folder / SKIPPED_RECORDS
        if not path.exists():
            return []
        return list(json_files.read(path, hint="delete the folder: features are then computed again").counts("records"))

    def forget(self, index: int) -> None:
        """Deletes the shard that has a record's row, to be written again: a skipped record that is whole by now."""
        start = index // self._shard_rows * self._shard_rows
        self._shards.pop(start, None)
        self._path(start).unlink(missing_ok=True)
        inside = range(start, start + self._shard_rows)
        self._write_skipped([one for one in self.skipped() if one not in inside])

    def _list_skipped(self, indices: np.ndarray) -> None:
        if len(indices):
            self._write_skipped(sorted({*self.skipped(), *indices.tolist()}))

    def _write_skipped(self, indices: list[int]) -> None:
        files.write_text(self.folder / SKIPPED_RECORDS, json.dumps({"records": indices}) + "\n")

    def all(self) -> tuple[np.ndarray, np.ndarray]:
        """All features, [records, ...] in their dtype on disk, and tag ids, int32 [records, max_tags]."""
        rows = self.rows(np.arange(self._records))
        return np.ascontiguousarray(rows["features"]), np.ascontiguousarray(rows["tag_ids"])

    def _shard(self, start: int) -> np.memmap:
        if start not in self._shards:
            self._shards[start] = np.memmap(self._path(start), self._row, "r")
        return self._shards[start]

    def close(self) -> None:
        """Closes the files; reading again opens them anew."""
        self._shards.clear()

    def _empty_shard(self, start: int) -> np.ndarray:
        return np.zeros(max(0, min(self._shard_rows, self._records - start)), self._row)

    def _stored(self, features: np.ndarray) -> np.ndarray:
        dtype = self._row["features"].base
        largest = float(np.max(np.abs(features), initial=0.0))
        if not math.isfinite(largest):
            raise UserError(
                f"a feature is {largest}: the frozen layers overflow on these photos",
                where=self.folder,
                hint="start from other --weights, or compute in --model.compute-dtype float32",
            )
        if largest > float(np.finfo(dtype).max):
            raise UserError(
                f"a feature is {largest:g}, which {dtype.name} cannot hold",
                where="--cache.dtype",
                hint="use --cache.dtype float32",
            )
        return features.astype(dtype)

    def _path(self, start: int) -> Path:
        return self.folder / f"rows-{start:010d}.bin"

    def _is_complete(self, start: int) -> bool:
        # Shards appear whole: the size alone tells.
        path, rows = self._path(start), min(self._shard_rows, self._records - start)
        return path.exists() and path.stat().st_size == rows * self._row.itemsize

    def _check_key(self) -> None:
        path = self.folder / KEY
        if path.exists() and path.read_text(encoding="utf-8") != self._key:
            raise UserError(
                "the features were computed from something else than the folder's name says",
                where=path,
                hint="delete the folder: they are then computed again",
            )


def _checksum(row: np.void) -> int:
    return google_crc32c.value(row.tobytes()[:-4])


def weights_sha256(params: Mapping[str, Mapping[str, Any]]) -> str:
    """SHA-256 over the parameters of some layers, names and bits."""
    digest = hashlib.sha256()
    for layer in sorted(params):
        for name in sorted(params[layer]):
            digest.update(f"{layer}/{name}:".encode())
            digest.update(np.ascontiguousarray(params[layer][name]).tobytes())
    return digest.hexdigest()
