"""A loss that is no finite number, and the photos of the batch that it came from."""

import json
from typing import Any

import numpy as np

from socialtag_jax import files
from socialtag_jax.errors import UserError
from socialtag_jax.shards.dataset import Dataset
from socialtag_jax.storage import Location


class DivergedError(UserError):
    """A loss that is no finite number.

    Args:
      whose: as "the loss in step 3, epoch 1,".
      value: of it.
      step: the training step, counted within its epoch from 0; None of a validation.
      records: the file that lists its batch.
    """

    def __init__(self, whose: str, value: float, step: int | None = None, records: object = None) -> None:
        listed = "" if records is None else f" (the batch's photos are listed in {records})"
        hint = "start again in a new --workdir with a lower learning rate; this one keeps its last checkpoint before"
        super().__init__(f"{whose} is {value}: training diverged{listed}", hint=hint)
        self.whose, self.value, self.step = whose, value, step

    def with_records(self, path: Location, dataset: Dataset, order: np.ndarray, batch_size: int) -> "DivergedError":
        """The same error, after the records of the training step's batch were written to a file.

        Args:
          path: of the file.
          dataset: that is trained on.
          order: int32 [records], the epoch's (`input_pipeline.train_order`).
          batch_size: over all devices.
        """
        assert self.step is not None
        records = dataset.records("train")
        batch: list[dict[str, Any]] = []
        for index in order[self.step * batch_size : (self.step + 1) * batch_size].tolist():
            try:
                image_id = records[index].image_id
            except UserError:  # a damaged record, which was skipped
                continue
            batch.append({"index": index, "image_id": image_id, "where": records.where(index)})
        content = {"what": f"{self.whose} is {self.value}", "records": batch}
        files.write_text(path, json.dumps(content, indent=1, ensure_ascii=False) + "\n")
        return DivergedError(self.whose, self.value, self.step, path)
