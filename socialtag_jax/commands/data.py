"""`prepare`, `stats`, `preview` and `weights`: what comes before training."""

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from socialtag_jax import storage
from socialtag_jax.commands.arguments import (
    GO_ON,
    Commands,
    add_allow_outside,
    add_json,
    add_pruning,
    amount,
    log,
    not_negative,
    positive,
)
from socialtag_jax.errors import UsageError, UserError
from socialtag_jax.storage import local_path, location

if TYPE_CHECKING:
    from socialtag_jax.shards.dataset import Dataset


_PREPARE_EXAMPLES = """\
  socialtag prepare --source tags-csv --input holiday --output data
  socialtag prepare --source tags-csv --input photos.csv --output data --pruning min-images=20 min-tags=1
  socialtag prepare --source postcards --input cards --output data       # draws a demo set
  socialtag prepare --source harrison --input HARRISON --output data

Killed at any time, the same command goes on where it was."""


def add_prepare(commands: Commands) -> None:
    """`socialtag prepare`."""
    from socialtag_jax.sources import SOURCES

    command = commands.add(
        "prepare",
        run_prepare,
        "Turn tagged photos into a data set of TFRecord shards.",
        examples=_PREPARE_EXAMPLES,
        interrupted=GO_ON,
    )
    command.add_argument(
        "--source", choices=SOURCES, required=True, help="what the input is; postcards draws a demo set"
    )
    command.add_argument(
        "--input",
        type=local_path,
        required=True,
        help="a CSV file (path,tags[,split]) or its folder; harrison: the lists' folder; mirflickr: its folder; "
        "postcards: where to draw",
    )
    command.add_argument("--output", type=local_path, required=True, help="the folder of all data sets")
    command.add_argument(
        "--overlay", type=local_path, help="harrison: a folder of images that replace others of the same path"
    )
    command.add_argument("--name", help="the data set's name (default: from the input's)")
    command.add_argument("--version", default="1.0.0", help="the data set's version (default 1.0.0)")
    command.add_argument("--tag-separator", default=" ", help="between the tags of a cell (default: a space)")
    add_allow_outside(command)
    add_pruning(command)
    for split in ("validation", "test"):
        help_text = f"share or number of photos drawn for {split}, where the source does not say (default 0.1)"
        command.add_argument(f"--{split}", type=amount, default=0.1, metavar="AMOUNT", help=help_text)
    command.add_argument("--image-size", type=positive, default=288, help="shorter side of stored images (default 288)")
    command.add_argument("--seed", type=not_negative, default=0, help="of random splits and record order (default 0)")
    command.add_argument("--workers", type=positive, help="decoding processes (default: one a core)")
    command.add_argument("--allow-leaks", action="store_true", help="go on though a photo stands in two splits")


def run_prepare(options: argparse.Namespace) -> int:
    """Photos -> a data set."""
    from socialtag_jax import sources
    from socialtag_jax.rules import parse_balancing, parse_pruning
    from socialtag_jax.shards.prepare import PrepareOptions, prepare

    prepare_options = PrepareOptions(
        name=options.name or sources.dataset_name(options.source, options.input),
        version=options.version,
        image_size=options.image_size,
        seed=options.seed,
        validation=options.validation,
        test=options.test,
        pruning=parse_pruning(options.pruning),
        balancing=parse_balancing(options.balancing),
        allow_leaks=options.allow_leaks,
        workers=options.workers,
    )
    source = sources.SourceOptions(
        source=options.source,
        path=options.input,
        tag_separator=options.tag_separator,
        overlay=options.overlay,
        allow_outside=options.allow_outside,
        seed=options.seed,
        workers=options.workers,
    )
    result = prepare(sources.read(source, log), options.output, prepare_options, log=log, stream=sys.stderr)
    left_out = f" + {result.left_out:,} left out" if result.left_out else ""
    log(f"{result.photos:,} photos in = {result.written:,} written + {result.rejected:,} rejected{left_out}")
    if result.rejected:
        log(f"warning: see {result.folder / 'rejects.csv'} for why photos were rejected")
    print(result.folder)
    return 0


_STATS_EXAMPLES = """\
  socialtag stats data/holiday
  socialtag stats data/holiday --verify
  socialtag stats HARRISON --source harrison --pruning min-images=100"""


def add_stats(commands: Commands) -> None:
    """`socialtag stats`."""
    from socialtag_jax.sources import LABELLED_SOURCES

    command = commands.add(
        "stats",
        run_stats,
        "Print tag statistics of a data set, or of a source's label files.",
        examples=_STATS_EXAMPLES,
        # The folder comes first: after --pruning, it would be taken for another rule.
        usage="socialtag stats DATASET [options]",
    )
    command.add_argument(
        "dataset", type=location, metavar="DATASET", help="a data set's folder, as `prepare` printed it; or a source's"
    )
    command.add_argument(
        "--source", choices=LABELLED_SOURCES, help="count the labels of such a source, without its images"
    )
    command.add_argument("--tag-separator", default=" ", help="between the tags of a CSV cell (default: a space)")
    add_allow_outside(command)
    command.add_argument(
        "--verify",
        action="store_true",
        help="read all of a data set: every shard's SHA-256, every record, image and tag count",
    )
    add_pruning(command)
    command.add_argument("--seed", type=not_negative, default=0, help="of the balancing (default 0)")
    command.add_argument(
        "--top", type=positive, default=10, metavar="N", help="how many of the most frequent tags (default 10)"
    )
    add_json(command)


def run_stats(options: argparse.Namespace) -> int:
    """Statistics of a data set, or of a source's labels."""
    from socialtag_jax import stats

    if options.source is None:
        from socialtag_jax.shards.dataset import open_dataset

        if options.pruning or options.balancing:
            hint = "name a --source, or give the rules to `socialtag prepare`"
            raise UsageError("a prepared data set keeps its tags", where="--pruning, --balancing", hint=hint)
        dataset = open_dataset(options.dataset)
        if options.verify:
            _verify(dataset)
        name, folder, report = dataset.name, dataset.location, stats.of_dataset(dataset)
    else:
        from socialtag_jax import sources
        from socialtag_jax.rules import parse_balancing, parse_pruning

        if options.verify:
            raise UsageError("only a prepared data set can be verified", where="--verify", hint="leave --source out")
        source = sources.SourceOptions(
            options.source,
            storage.local_path(options.dataset),
            tag_separator=options.tag_separator,
            allow_outside=options.allow_outside,
            need_images=False,
        )
        pruning, balancing = parse_pruning(options.pruning), parse_balancing(options.balancing)
        report = stats.of_source(sources.read(source, log), pruning, balancing, options.seed)
        name, folder = f"labels of {options.source}", options.dataset
    if options.json:
        content = {"dataset": name, "folder": str(folder), **stats.as_json(report, options.top)}
        print(json.dumps(content, ensure_ascii=False))
    else:
        print(f"{name} in {folder}")
        print(stats.as_text(report, options.top))
    return 0


def _verify(dataset: "Dataset") -> None:
    from socialtag_jax.shards.verification import verify

    records, problems = verify(dataset, stream=sys.stderr)
    for problem in problems:
        log(f"socialtag: error: {problem}")
    if problems:
        hint = "restore these files from a copy, or prepare the data set again"
        raise UserError(f"{len(problems):,} problems in {records:,} records", where=dataset.folder, hint=hint)
    log(f"verified: {records:,} records are as {dataset.folder} says")


_PREVIEW_EXAMPLES = """\
  socialtag preview data/holiday
  socialtag preview data/holiday --augmented --output augmented.png"""


def add_preview(commands: Commands) -> None:
    """`socialtag preview`."""
    command = commands.add(
        "preview", run_preview, "Write a PNG of photos as the network sees them.", examples=_PREVIEW_EXAMPLES
    )
    command.add_argument("dataset", type=location, help="a data set's folder")
    command.add_argument("--augmented", action="store_true", help="beside each photo, augmented versions of it")
    command.add_argument("--split", default="train", help="train (default), validation or test")
    command.add_argument(
        "--output", type=local_path, default=Path("preview.png"), help="the file (default preview.png)"
    )
    command.add_argument("--input-size", type=positive, default=224, help="of a cell, in pixels (default 224)")
    command.add_argument("--rows", type=positive, default=5, help="default 5")
    command.add_argument("--columns", type=positive, default=6, help="default 6")
    command.add_argument("--seed", type=not_negative, default=0, help="of the choice and the augmentation (default 0)")


def run_preview(options: argparse.Namespace) -> int:
    """Photos of a data set -> a PNG."""
    from socialtag_jax import preview
    from socialtag_jax.config import Augmentation
    from socialtag_jax.shards.dataset import open_dataset

    sheet = preview.contact_sheet(
        open_dataset(options.dataset),
        options.split,
        rows=options.rows,
        columns=options.columns,
        size=options.input_size,
        augmentation=Augmentation(enabled=options.augmented),
        seed=options.seed,
    )
    preview.write_png(sheet, options.output)
    print(options.output)
    return 0


_WEIGHTS_EXAMPLES = """\
  socialtag weights fetch
  socialtag weights convert vgg16.h5 --output vgg16.safetensors"""


def add_weights(commands: Commands) -> None:
    """`socialtag weights`."""
    command = commands.add("weights", None, "Get or convert VGG16 weights.", examples=_WEIGHTS_EXAMPLES)
    actions = command.add_subparsers(dest="action", required=True, metavar="ACTION")
    fetch = actions.add_parser("fetch", help="fetch ImageNet weights into the cache", allow_abbrev=False)
    fetch.set_defaults(run=run_weights_fetch)
    convert = actions.add_parser(
        "convert",
        help="convert a weight file (.h5, .keras, .weights.h5, .safetensors, .onnx, .npz)",
        description="Writes VGG16's convolutions, and the tag head if the file has one: two dense layers from 512 "
        "features to tags. The tags' names are not in the file: to train on from a head, the data set's "
        "tags.labels.txt must list them in the same order.",
        allow_abbrev=False,
    )
    convert.add_argument("file", type=local_path, help="the file to convert; pickles (.pt, .pth, .pkl) are refused")
    convert.add_argument("--output", type=local_path, required=True, help="the .safetensors file to write")
    convert.set_defaults(run=run_weights_convert)


def run_weights_fetch(_: argparse.Namespace) -> int:
    """ImageNet weights -> the cache."""
    from socialtag_jax.pretrained import imagenet_weights

    print(imagenet_weights(log=log))
    return 0


def run_weights_convert(options: argparse.Namespace) -> int:
    """A weight file of another library -> safetensors."""
    from socialtag_jax import pretrained

    pretrained.convert(options.file, options.output, log=log)
    print(options.output)
    return 0
