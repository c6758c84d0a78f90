"""`rate`: the rating study."""

import argparse
import datetime
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from socialtag_jax.commands.arguments import Commands, add_hosting, add_json, log, not_negative, positive
from socialtag_jax.errors import UsageError
from socialtag_jax.storage import Location, local_path, location

if TYPE_CHECKING:
    from socialtag_jax.shards.dataset import Dataset

_STUDY = "study.sqlite"
_SUFFIXES = (".sqlite", ".sqlite3", ".db")
_SPLIT = "test"

_EXAMPLES = """\
  socialtag rate holiday.tagger --dataset data/holiday
      opens a study of 200 test photos in holiday.tagger-rating/study.sqlite, or goes on with it
  socialtag rate holiday.tagger --dataset data/holiday --photos 50 --seed 1 --study studies/second.sqlite
      another study
  socialtag rate holiday.tagger --dataset data/holiday --host 0.0.0.0
      lets raters on other computers and phones of this network open the page
  socialtag rate --results holiday.tagger-rating --csv answers.csv
      prints what was found so far, and writes every answer to a CSV file
"""


def add_rate(commands: Commands) -> None:
    """`socialtag rate`."""
    command = commands.add(
        "rate",
        run_rate,
        "Let people mark which tags fit photos, and say how precise the suggestions are in their eyes.",
        usage="socialtag rate BUNDLE --dataset DATASET [options]\n"
        "       socialtag rate --results STUDY [--json] [--csv FILE]",
        examples=_EXAMPLES,
    )
    command.add_argument("bundle", type=location, nargs="?", metavar="BUNDLE", help="an exported bundle")
    command.add_argument("--dataset", type=location, help="a data set's folder")
    command.add_argument("--split", help="train, validation or test (default)")
    command.add_argument(
        "--photos", type=positive, metavar="N", help="how many to rate (default 200, or all of a smaller split)"
    )
    command.add_argument("--seed", type=not_negative, help="of the draw of photos and tags (default 0)")
    command.add_argument(
        "--study",
        type=local_path,
        metavar="FILE",
        help=f"where answers are kept: an SQLite file, or a folder for {_STUDY} (default: BUNDLE-rating)",
    )
    add_hosting(command, 8001)
    command.add_argument("--results", type=local_path, metavar="STUDY", help="print the results of a study so far")
    command.add_argument("--csv", type=local_path, metavar="FILE", help="with --results: write every answer")
    add_json(command)


def run_rate(options: argparse.Namespace) -> int:
    """Serves a study, or prints its results."""
    if options.results is not None:
        given = [name for name in ("dataset", "split", "photos", "seed", "study") if getattr(options, name) is not None]
        if options.bundle is not None or given:
            where = f"--{given[0]}" if given else "BUNDLE"
            raise UsageError("belongs to a new study, not to --results", where=where, hint="leave one of them out")
        return _results(_study_file(options.results), options)
    for name, value in (("--json", options.json), ("--csv", options.csv)):
        if value:
            raise UsageError("goes with --results STUDY", where=name)
    if options.bundle is None or options.dataset is None:
        raise UsageError("needs BUNDLE and --dataset DATASET, or --results STUDY", where="socialtag rate")
    return _serve(options)


def _results(path: Path, options: argparse.Namespace) -> int:
    from socialtag_jax.rating import printout
    from socialtag_jax.rating.study import Study

    if options.csv is not None and options.csv.exists() and path.exists() and options.csv.samefile(path):
        raise UsageError("is the study itself", where="--csv", hint="name another file")
    with Study.open(path, _now) as study:
        found = printout.findings(study.judged())
        if options.csv is not None:
            rows = printout.write_csv(study, options.csv)
            log(f"{rows:,} answers written to {options.csv}")
        if options.json:
            print(json.dumps(printout.as_json(study, found), ensure_ascii=False))
        else:
            print(printout.as_text(study, found))
    return 0


def _serve(options: argparse.Namespace) -> int:
    from socialtag_jax.rating.study import Study
    from socialtag_jax.shards.dataset import open_dataset
    from socialtag_jax.web import hosting

    path = _study_file(options.study or _default_study(options.bundle))
    dataset = open_dataset(options.dataset)
    with hosting.listen(options.host, options.port) as listener:
        if path.exists():
            _check(path, dataset, options)
            log(f"goes on with {path}")
        else:
            _draw(path, dataset, options)
            log(f"study: {path}")
        from socialtag_jax.rating.application import rating_application

        with Study.open(path, _now) as study:
            hosts = hosting.names_of(options.allow_host, options.host)
            app = rating_application(study, dataset.records(study.origin.split), hosts=hosts)
            log(f"results so far: socialtag rate --results {path}")
            if not hosting.is_loopback(listener):
                log("warning: every computer that reaches this one can rate, under any name; there is no password")
            log("raters open this address, until Ctrl-C; every answer is stored when it is given:")
            code = hosting.run(app, listener, log=log)
            log("the same command goes on with the study")
            return code


def _draw(path: Path, dataset: "Dataset", options: argparse.Namespace) -> None:
    from socialtag_jax import compilation_cache
    from socialtag_jax.rating.drawing import draw_study

    compilation_cache.enable(log)
    draw_study(
        path,
        options.bundle,
        dataset,
        _SPLIT if options.split is None else options.split,
        options.photos,
        seed=0 if options.seed is None else options.seed,
        clock=_now,
        log=log,
        stream=sys.stderr,
    )


def _check(path: Path, dataset: "Dataset", options: argparse.Namespace) -> None:
    from socialtag_jax.rating.drawing import bundle_sha256
    from socialtag_jax.rating.study import Study

    with Study.open(path, _now) as study:
        study.check(bundle_sha256(options.bundle), dataset.fingerprint, options.split, options.photos, options.seed)


def _study_file(path: Path) -> Path:
    """A folder stands for the study in it; what does not exist is a file where its name ends as SQLite files' do.

    Other suffixes are none: `holiday.tagger-rating` and `round-1.2` are folders.
    """
    return path if path.is_file() or (path.suffix in _SUFFIXES and not path.is_dir()) else path / _STUDY


def _default_study(bundle: Location) -> Path:
    if not isinstance(bundle, Path):
        raise UsageError("a bundle on gs:// has no folder beside it", where="--study", hint="name a file")
    folder = bundle.resolve()
    return folder.with_name(f"{folder.name}-rating")


def _now() -> datetime.datetime:
    return datetime.datetime.now().astimezone()
