"""`evaluate`."""

import argparse
import json
import sys

from socialtag_jax import storage
from socialtag_jax.commands.arguments import Commands, add_checkpoint, add_json, log, positive
from socialtag_jax.errors import UsageError
from socialtag_jax.storage import location

_EXAMPLES = """\
  socialtag evaluate runs/holiday --dataset data/holiday
  socialtag evaluate holiday.tagger --dataset data/holiday --split validation --json
  socialtag evaluate runs/holiday --dataset data/holiday --checkpoint latest --output scores"""


def add_evaluate(commands: Commands) -> None:
    """`socialtag evaluate`."""
    command = commands.add(
        "evaluate",
        run_evaluate,
        "Score a run or a bundle on a split, beside the popularity baseline.",
        examples=_EXAMPLES,
    )
    command.add_argument("model", type=location, metavar="RUN_OR_BUNDLE", help="a run folder or an exported bundle")
    command.add_argument("--dataset", type=location, required=True, help="a data set's folder")
    command.add_argument("--split", default="test", help="train, validation or test (default)")
    command.add_argument(
        "--output",
        type=location,
        help="for metrics.json, per_tag.csv, predictions.csv and report.html; default: "
        "RUN/evaluation/SPLIT, or BUNDLE-evaluation/SPLIT",
    )
    command.add_argument("--batch-size", type=positive, default=64, help="changes no score (default 64)")
    add_checkpoint(command)
    add_json(command)


def run_evaluate(options: argparse.Namespace) -> int:
    """Scores a run or a bundle."""
    from socialtag_jax import compilation_cache
    from socialtag_jax.evaluate import bundle_scorer, evaluate
    from socialtag_jax.evaluation_report import evaluation_folder, table, write_results
    from socialtag_jax.parallel import Devices
    from socialtag_jax.report import page
    from socialtag_jax.report.evaluation_page import Training, write_report
    from socialtag_jax.shards.dataset import open_dataset
    from socialtag_jax.tagger import is_bundle
    from socialtag_jax.trained import run_scorer

    compilation_cache.enable(log)
    dataset = open_dataset(options.dataset)
    dataset.split(options.split)
    bundle = is_bundle(options.model)
    if bundle:
        if options.checkpoint != "best":
            raise UsageError("a bundle has no checkpoints", where="--checkpoint", hint="leave it out, or name the run")
        scorer = bundle_scorer(options.model)
    else:
        scorer = run_scorer(options.model, options.checkpoint, Devices(), log=log)
    output = options.output or evaluation_folder(options.model, options.split)
    if scorer.trained_on != dataset.fingerprint:
        log("warning: not the data set that the model was trained on: photos of this split may have been trained on")
    # Before the scores, which may take hours and would be lost with an error.
    training = None if bundle or page.missing_package() is not None else Training.of(options.model)
    with storage.staged(output) as folder:
        result = evaluate(
            scorer, dataset, options.split, batch_size=options.batch_size, threads=0, stream=sys.stderr, scratch=folder
        )
        write_results(result, dataset, scorer, folder)
        write_report(result, dataset, training, folder)
    if options.json:
        print(json.dumps(result.summary, ensure_ascii=False))
    else:
        print(f"{scorer.name} on {dataset.name}, {options.split}: {result.summary['images']:,} images")
        print(table(result.summary))
    log(f"written to {output}")
    if (missing := page.missing_package()) is not None:
        log(f"no {page.REPORT}: it needs {missing}, which is not installed -- {page.INSTALL}")
    return 0
