"""How many CPU cores feed a device that takes R images a second?

cores = R x seconds a core and image, and those seconds are, to a good approximation,

    fixed + per_stored x stored pixels (in thousands) + per_input x pixels of the network's input (in thousands)

* fixed: read, check, parse, draw, hand on;
* per_stored: decode the stored JPEG. Where its sides are all at least twice the input's, it is shrunk while it is
  decoded, which has a coefficient of its own;
* per_input: warp.

Corel5K's photos are enlarged, prepared and timed at several stored sizes (shorter side) and input sizes, with
`input_rate.measure`, which is also what `socialtag train --input-only` prints. The coefficients are fitted to the
processor time with one thread, and the formula is then held against what was not fitted: all sizes with two threads,
and, with coefficients from the other sizes alone, each size in turn. Other photos have other coefficients: those that
were enlarged decode faster than sharp ones of the same size.

Command:  python -m experiments.benchmarks.feeding [--corel5k data/corel5k.zip]     (2 minutes on 2 cores)
"""

import dataclasses
import itertools
import time

import numpy as np

from experiments.benchmarks import corel5k_data
from experiments.benchmarks.harness import Answer, Context, Row, main
from socialtag_jax import input_rate
from socialtag_jax.config import Experiment, Input, Model
from socialtag_jax.shards.dataset import Dataset
from socialtag_jax.shards.pixels import jpeg_size

STORED, INPUTS, THREADS = (224, 288, 384, 512), (160, 224, 299), (1, 2)
PHOTOS, TURNS = 256, 7
LARGEST_ERROR = 15.0
"""Per cent: what a machine is rented by."""


@dataclasses.dataclass(frozen=True)
class Coefficients:
    """Of the formula, in microseconds; pixels in thousands."""

    fixed: float
    per_stored: float
    per_stored_shrunk: float
    per_input: float

    def microseconds(self, case: "Case") -> float:
        """Of one core, for one image."""
        return float(case.terms() @ np.array(dataclasses.astuple(self)))


@dataclasses.dataclass(frozen=True)
class Case:
    """A stored size and an input size, and the stored images' mean pixels, in thousands."""

    stored: int
    size: int
    stored_pixels: float

    def terms(self) -> np.ndarray:
        """float64 [4]: what the coefficients multiply."""
        shrunk = self.stored >= 2 * self.size
        return np.array([1.0, 0.0 if shrunk else self.stored_pixels, self.stored_pixels * shrunk, self.size**2 / 1e3])


def fit(microseconds: dict[Case, float]) -> Coefficients:
    """Least squares of the relative errors; no coefficient is negative."""
    terms = np.stack([case.terms() / measured for case, measured in microseconds.items()])
    # Few unknowns: of all choices of those that are not 0, the best whose solution has no negative one.
    best, least = np.zeros(4), np.inf
    for count in range(1, 5):
        for chosen in map(list, itertools.combinations(range(4), count)):
            solution = np.zeros(4)
            solution[chosen] = np.linalg.lstsq(terms[:, chosen], np.ones(len(terms)), rcond=None)[0]
            error = float(((terms @ solution - 1) ** 2).sum())
            if (solution >= 0).all() and error < least:
                best, least = solution, error
    return Coefficients(*best.tolist())


def mean_pixels(dataset: Dataset) -> float:
    """Of the stored images, in thousands."""
    records = dataset.records("train")
    sizes = [jpeg_size(records[index].image) for index in range(len(records))]
    return float(np.mean([size[0] * size[1] for size in sizes if size is not None])) / 1e3


def run(context: Context) -> Answer:
    datasets = {
        stored: corel5k_data.photos(context, f"corel5k_{stored}_feeding", {"train": PHOTOS}, enlarged_to=stored).dataset
        for stored in STORED
    }
    cases = [Case(stored, size, mean_pixels(dataset)) for stored, dataset in datasets.items() for size in INPUTS]
    measured: dict[tuple[Case, int], list[float]] = {(case, threads): [] for case in cases for threads in THREADS}
    for _ in range(TURNS):
        for (case, threads), values in measured.items():
            experiment = Experiment("feeding", model=Model(input_size=case.size), input=Input(threads=threads))
            rate = input_rate.measure(experiment, datasets[case.stored])
            values.append(1e6 / rate.images_per_core_second)
        if time.monotonic() > context.deadline:
            break
    medians = {key: float(np.median(values)) for key, values in measured.items()}
    alone = {case: medians[case, 1] for case in cases}
    coefficients = fit(alone)
    print(
        f"\n{'stored':>7}{'input':>7}{'threads':>9}{'measured':>11}{'predicted':>11}{'error':>9}   us a core and image"
    )
    errors = {}
    for (case, threads), median in medians.items():
        predicted = coefficients.microseconds(case)
        errors[case, threads] = 100 * (predicted / median - 1)
        print(
            f"{case.stored:7}{case.size:7}{threads:9}{median:11.0f}{predicted:11.0f}{errors[case, threads]:8.1f} %"
            f"{'   shrunk while decoded' if case.stored >= 2 * case.size else ''}"
        )
    left_out = {
        case: 100 * (fit({one: value for one, value in alone.items() if one != case}).microseconds(case) / median - 1)
        for case, median in alone.items()
    }
    print(f"\nfitted, in us: {coefficients}")
    rows = [
        Row(
            f"cores that feed a device, {what}: largest error of the formula",
            max(map(abs, found)),
            "limit",
            LARGEST_ERROR,
            "%",
            goal=1.0,
            less_is_better=True,
            note=f"{len(cases)} sizes",
        )
        for what, found in (
            ("two threads predicted from one", [error for (_, threads), error in errors.items() if threads == 2]),
            ("each size predicted from the others", list(left_out.values())),
        )
    ]
    table = [
        {
            **dataclasses.asdict(case),
            "threads": threads,
            "microseconds": measured[case, threads],
            "predicted": coefficients.microseconds(case),
            "error_percent": errors[case, threads],
        }
        for case, threads in measured
    ]
    left_out_table = [{**dataclasses.asdict(case), "error_percent": error} for case, error in left_out.items()]
    return Answer(rows, {"coefficients": coefficients, "cases": table, "each_from_the_others": left_out_table})


if __name__ == "__main__":
    main(run)
