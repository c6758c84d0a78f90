"""The input pipeline's own speed, without a model: how fast it is, and how many cores would feed faster devices.

Nothing is trained, no device is touched, no run folder is written.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass

from socialtag_jax.config import Experiment
from socialtag_jax.input_pipeline import BatchShape, train_batches, train_order
from socialtag_jax.machine import usable_cores
from socialtag_jax.shards.dataset import Dataset, ParsedRecords

SECONDS = 20.0
_EXAMPLES = (1000, 10_000)


@dataclass(frozen=True)
class InputRate:
    """The speed of an experiment's input pipeline on this machine.

    Attributes:
      images: that were read, decoded, augmented and put into batches.
      records: of the train split.
      seconds: from the start of the pipeline's threads to the last batch.
      core_seconds: processor time of this process, summed over its threads.
      read_bytes: of the images' records.
      threads: of the pipeline.
    """

    images: int
    records: int
    seconds: float
    core_seconds: float
    read_bytes: int
    threads: int

    @property
    def images_per_second(self) -> float:
        """As measured."""
        return self.images / self.seconds

    @property
    def images_per_core_second(self) -> float:
        """What one core gives that does nothing else; other programs on the machine change it little."""
        return self.images / self.core_seconds

    def cores_for(self, images_per_second: float) -> float:
        """Cores, of this kind, that feed devices which take so many images a second."""
        return images_per_second / self.images_per_core_second


def measure(
    experiment: Experiment,
    dataset: Dataset,
    *,
    seconds: float = SECONDS,
    wall: Callable[[], float] = time.perf_counter,
    cpu: Callable[[], float] = time.process_time,
) -> InputRate:
    """Makes training batches of the first epoch and throws them away.

    Args:
      experiment: gives batch size, input size, augmentation, threads and seed.
      dataset: with a train split.
      seconds: about how long; no longer than an epoch.
      wall: seconds, monotonic.
      cpu: processor seconds of this process.
    """
    records = dataset.records("train")
    shape = BatchShape(1, experiment.input.batch_size, experiment.model.input_size, dataset.max_tags)
    threads = experiment.input.threads or usable_cores()
    # The number of batches is set beforehand: all that is begun within the time is then also counted.
    trial = _time_batches(experiment, records, shape, 2 * threads, threads, wall, cpu)
    batches = max(1, round(seconds * trial.images_per_second / shape.size))
    return _time_batches(experiment, records, shape, batches, threads, wall, cpu)


def _time_batches(
    experiment: Experiment,
    records: ParsedRecords,
    shape: BatchShape,
    limit: int,
    threads: int,
    wall: Callable[[], float],
    cpu: Callable[[], float],
) -> InputRate:
    wall_start, cpu_start = wall(), cpu()
    for _ in train_batches(
        records,
        shape,
        seed=experiment.seed,
        epoch=0,
        augmentation=experiment.augmentation,
        threads=threads,
        limit=limit,
    ):
        pass
    elapsed, core_seconds = wall() - wall_start, cpu() - cpu_start
    order = train_order(len(records), experiment.seed, 0)[: limit * shape.size]
    read_bytes = sum(records.frame_size(index) for index in order.tolist())
    return InputRate(len(order), len(records), elapsed, core_seconds, read_bytes, threads)


def report(rate: InputRate, experiment: Experiment, dataset: Dataset, device_rate: float | None) -> list[str]:
    """Lines for people.

    Args:
      rate: as measured.
      experiment: that it was measured for.
      dataset: likewise.
      device_rate: images a second that a run of the experiment reached; None where there was none.
    """
    part = "an epoch" if rate.images == rate.records else f"of {rate.records:,}"
    what = f"{rate.images:,} images ({part}) of {dataset.name}, {experiment.model.input_size} px"
    per_core = rate.images_per_core_second
    examples = ", ".join(f"{rate.cores_for(wanted):.1f} for {wanted:,}" for wanted in _EXAMPLES)
    read = f"{rate.read_bytes / rate.seconds / 1e6:,.1f} MB/s read"
    lines = [
        f"{what}, in {rate.seconds:.1f} s: {rate.images_per_second:,.0f} images/s, threads: {rate.threads}, {read}",
        f"{per_core:,.0f} images/s a core: cores needed for R images/s = R / {per_core:,.0f} ({examples})",
    ]
    if device_rate is not None:
        times = rate.images_per_second / device_rate
        lines.append(
            f"the run's last epoch took {device_rate:,.1f} images/s, for which {rate.cores_for(device_rate):.2f} cores "
            f"are needed: the input pipeline alone is {times:,.1f} times as fast"
        )
    return lines
