"""`socialtag COMMAND`: parses the command line, and turns errors into one line and an exit code."""

import argparse
import io
import logging
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

from socialtag_jax import commands
from socialtag_jax.errors import UsageError, UserError, printable
from socialtag_jax.stopping import Stopped
from socialtag_jax.storage import local_path, location

_TOGETHER = ("--coordinator", "--processes", "--process", "--distributed")


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Runs the command line; exits with 0 (or stopped by SIGTERM), 1 (failure), 2 (usage) or 130 (Ctrl-C)."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    # A file name that the terminal cannot show is no reason to fail.
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    # orbax remarks on every folder that it opens to read.
    logging.getLogger("absl").setLevel(logging.ERROR)
    try:
        sys.exit(_run(arguments))
    except UserError as error:
        # Several lines, or control characters, in a file name must not break the one-line promise.
        message = printable(" ".join(str(error).split()))
        print(f"socialtag: error: {message}", file=sys.stderr)
        sys.exit(error.exit_code)
    except BrokenPipeError:
        # The reader of our output (`| head`) has gone; so do we, quietly.
        sys.stderr.close()
        sys.exit(1)
    except OSError as error:
        message = printable(" ".join(f"{error.filename or 'system'}: {error.strerror or error}".split()))
        print(f"socialtag: error: {message}", file=sys.stderr)
        sys.exit(1)
    except Stopped as stopped:
        print(f"\nsocialtag: {stopped}; run the same command again to go on", file=sys.stderr)
        sys.exit(stopped.exit_code)
    except KeyboardInterrupt:
        print("\nsocialtag: interrupted; run the same command again to go on", file=sys.stderr)
        sys.stdout.flush()
        sys.stderr.flush()
        # Everything of ours is closed; a compilation that XLA is still at would crash the interpreter's orderly end.
        os._exit(130)


def _run(arguments: list[str]) -> int:
    parser, train = _parser()
    if arguments[:1] == ["train"] and {"-h", "--help"} & set(arguments):
        return commands.train_help(train, arguments[1:])
    options, rest = parser.parse_known_args(arguments)
    for word in rest:
        if (flag := word.partition("=")[0]) in _TOGETHER:
            raise UsageError("is for `socialtag train` alone", where=flag, hint="start it as one process")
    if options.command in ("train", "sweep"):
        options.overrides = rest
    elif rest:
        parser.error(f"unknown arguments: {' '.join(rest)} (see: socialtag {options.command} --help)")
    return options.run(options)


def _parser() -> tuple[argparse.ArgumentParser, argparse.ArgumentParser]:
    from socialtag_jax import __version__
    from socialtag_jax.sources import LABELLED_SOURCES

    parser = argparse.ArgumentParser(
        prog="socialtag",
        description="Train a photo-tag predictor on your own tagged photos, and use it.",
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"socialtag-jax {__version__}")
    subcommands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def add(name: str, run: Any, text: str, **options: Any) -> argparse.ArgumentParser:
        command = subcommands.add_parser(name, help=text, description=text, allow_abbrev=False, **options)
        command.set_defaults(run=run)
        return command

    _add_prepare(add("prepare", commands.prepare, "Turn tagged photos into a data set of TFRecord shards."))

    stats = add(
        "stats",
        commands.stats,
        "Print tag statistics of a data set, or of a source's label files.",
        # The folder comes first: after --pruning, it would be taken for another rule.
        usage="socialtag stats DATASET [options]",
    )
    stats.add_argument(
        "dataset", type=location, metavar="DATASET", help="a data set's folder, as `prepare` printed it; or a source's"
    )
    stats.add_argument(
        "--source", choices=LABELLED_SOURCES, help="count the labels of such a source, without its images"
    )
    stats.add_argument("--tag-separator", default=" ", help="between the tags of a CSV cell (default: a space)")
    _add_allow_outside(stats)
    stats.add_argument(
        "--verify",
        action="store_true",
        help="read all of a data set: every shard's SHA-256, every record, image and tag count",
    )
    _add_pruning(stats)
    stats.add_argument("--seed", type=_not_negative, default=0, help="of the balancing (default 0)")
    stats.add_argument(
        "--top", type=_positive, default=10, metavar="N", help="how many of the most frequent tags (default 10)"
    )
    _add_json(stats)

    preview = add("preview", commands.preview, "Write a PNG of photos as the network sees them.")
    preview.add_argument("dataset", type=location, help="a data set's folder")
    preview.add_argument("--augmented", action="store_true", help="beside each photo, augmented versions of it")
    preview.add_argument("--split", default="train", help="train (default), validation or test")
    preview.add_argument(
        "--output", type=local_path, default=Path("preview.png"), help="the file (default preview.png)"
    )
    preview.add_argument("--input-size", type=_positive, default=224, help="of a cell, in pixels (default 224)")
    preview.add_argument("--rows", type=_positive, default=5, help="default 5")
    preview.add_argument("--columns", type=_positive, default=6, help="default 6")
    preview.add_argument("--seed", type=_not_negative, default=0, help="of the choice and the augmentation (default 0)")

    weights = add("weights", None, "Get or convert VGG16 weights.")
    actions = weights.add_subparsers(dest="action", required=True, metavar="ACTION")
    fetch = actions.add_parser("fetch", help="fetch ImageNet weights into the cache", allow_abbrev=False)
    fetch.set_defaults(run=commands.weights_fetch)
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
    convert.set_defaults(run=commands.weights_convert)

    train = add(
        "train",
        commands.train,
        "Train an experiment on a data set. Run the same command again to go on with an interrupted run.",
        epilog="Any field of the experiment can be set, for example --optimizer.learning-rate 3e-4 or "
        "--stages.0.epochs 2; socialtag train EXPERIMENT --help lists them all with that file's values.",
    )
    train.add_argument(
        "experiment", type=local_path, metavar="EXPERIMENT", help="an experiment file (see experiments/)"
    )
    train.add_argument("--dataset", type=location, required=True, help="a data set's folder")
    train.add_argument("--workdir", type=location, help="the run folder: checkpoints, metrics, TensorBoard")
    train.add_argument(
        "--debug",
        action="store_true",
        help="try the experiment in a minute: 4 simulated CPU devices, 48 px, 2 epochs of 4 batches of 8 images",
    )
    measured = train.add_mutually_exclusive_group()
    measured.add_argument(
        "--input-only",
        action="store_true",
        help="train nothing, but print the input pipeline's rate over an epoch or 20 s, and the cores that a faster "
        "device would need; beside the last epoch's rate of the run in --workdir, if it is given",
    )
    measured.add_argument(
        "--synthetic",
        action="store_true",
        help="train nothing, but time each stage's step on random images: without reading, decoding and augmentation",
    )
    measured.add_argument(
        "--reuse-batch",
        action="store_true",
        help="train nothing, but time each stage's step on one batch that stays on the devices",
    )

    together = train.add_argument_group(
        "several processes",
        "The same command on every machine; process 0 alone reads and writes the run folder. Batch sizes are those of "
        "all devices together.",
    )
    together.add_argument(
        "--distributed",
        action="store_true",
        help="where jax finds the other processes by itself: on TPU pods, under Slurm, Open MPI and Kubernetes",
    )
    together.add_argument("--coordinator", metavar="HOST:PORT", help="elsewhere: process 0's address, and a free port")
    together.add_argument("--processes", type=_positive, metavar="N", help="and how many there are")
    together.add_argument("--process", type=_not_negative, metavar="I", help="and which of them this is, from 0")

    _add_sweep(
        add(
            "sweep",
            commands.sweep,
            "Train many tag heads at once over cached features, and find the best on the validation split.",
            epilog="Any field of the experiment can be set as in `socialtag train`, for example --stages.0.epochs 20. "
            "The output folder gets sweep.json (all heads, with their curves), best.py (the winner, an experiment "
            "file for `socialtag train`) and sweep.png.",
        )
    )

    evaluate = add("evaluate", commands.evaluate, "Score a run or a bundle on a split, beside the popularity baseline.")
    evaluate.add_argument("model", type=location, metavar="RUN_OR_BUNDLE", help="a run folder or an exported bundle")
    evaluate.add_argument("--dataset", type=location, required=True, help="a data set's folder")
    evaluate.add_argument("--split", default="test", help="train, validation or test (default)")
    evaluate.add_argument(
        "--output",
        type=location,
        help="for metrics.json, per_tag.csv, predictions.csv; default: "
        "RUN/evaluation/SPLIT, or BUNDLE-evaluation/SPLIT",
    )
    evaluate.add_argument("--batch-size", type=_positive, default=64, help="changes no score (default 64)")
    _add_checkpoint(evaluate)
    _add_json(evaluate)

    export = add("export", commands.export, "Export a run's checkpoint as a bundle that suggests tags.")
    export.add_argument("run_folder", type=location, metavar="RUN", help="a run folder")
    export.add_argument("--output", type=location, required=True, help="the bundle's folder; must not exist")
    export.add_argument(
        "--formats",
        nargs="+",
        choices=("stablehlo", "keras"),
        default=["stablehlo"],
        help="stablehlo (default), which the bundle's own loader needs, is always written; "
        "keras adds model.keras, for keras.saving.load_model",
    )
    _add_checkpoint(export)

    predict = add("predict", commands.predict, "Suggest tags for photos.")
    predict.add_argument("bundle", type=location, metavar="BUNDLE", help="an exported bundle")
    predict.add_argument(
        "photos", type=local_path, nargs="+", metavar="PHOTO_OR_FOLDER", help="image files, or folders of them"
    )
    predict.add_argument("--threshold", type=float, help="only tags with a confidence over it (default: the bundle's)")
    predict.add_argument("--max-tags", type=_positive, help="at most so many tags (default: the bundle's)")
    output = predict.add_mutually_exclusive_group()
    _add_json(output)
    output.add_argument("--csv", type=local_path, metavar="FILE", help="write a CSV file instead of printing")

    doctor = add(
        "doctor",
        commands.doctor,
        "Print versions, devices, settings, and what repeats bit for bit here; fail if something needed is broken.",
    )
    _add_json(doctor)
    return parser, train


def _add_prepare(prepare: argparse.ArgumentParser) -> None:
    from socialtag_jax.sources import SOURCES

    prepare.add_argument(
        "--source", choices=SOURCES, required=True, help="what the input is; postcards draws a demo set"
    )
    prepare.add_argument(
        "--input",
        type=local_path,
        required=True,
        help="a CSV file (path,tags[,split]) or its folder; harrison: the lists' folder; mirflickr: its folder; "
        "postcards: where to draw",
    )
    prepare.add_argument("--output", type=local_path, required=True, help="the folder of all data sets")
    prepare.add_argument(
        "--overlay", type=local_path, help="harrison: a folder of images that replace others of the same path"
    )
    prepare.add_argument("--name", help="the data set's name (default: from the input's)")
    prepare.add_argument("--version", default="1.0.0", help="the data set's version (default 1.0.0)")
    prepare.add_argument("--tag-separator", default=" ", help="between the tags of a cell (default: a space)")
    _add_allow_outside(prepare)
    _add_pruning(prepare)
    for split in ("validation", "test"):
        help_text = f"share or number of photos drawn for {split}, where the source does not say (default 0.1)"
        prepare.add_argument(f"--{split}", type=_amount, default=0.1, metavar="AMOUNT", help=help_text)
    prepare.add_argument(
        "--image-size", type=_positive, default=288, help="shorter side of stored images (default 288)"
    )
    prepare.add_argument("--seed", type=_not_negative, default=0, help="of random splits and record order (default 0)")
    prepare.add_argument("--workers", type=_positive, help="decoding processes (default: one a core)")
    prepare.add_argument("--allow-leaks", action="store_true", help="go on though a photo stands in two splits")


def _add_pruning(parser: argparse.ArgumentParser) -> None:
    from socialtag_jax.rules import BALANCING, PRESETS, PRUNING, describe

    pruning = f"drop tags and photos, in this order: {describe(PRUNING, PRESETS)}"
    parser.add_argument("--pruning", nargs="+", default=[], metavar="RULE", help=pruning)
    balancing = f"take frequent tags from training photos, at random: {describe(BALANCING)}"
    parser.add_argument("--balancing", nargs="+", default=[], metavar="RULE", help=balancing)


def _add_allow_outside(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--allow-outside",
        action="store_true",
        help="tags-csv: take photos that lie outside the CSV file's folder: absolute paths, .. and symbolic links",
    )


def _add_sweep(sweep: argparse.ArgumentParser) -> None:
    sweep.add_argument(
        "experiment",
        type=local_path,
        metavar="EXPERIMENT",
        help="an experiment file with one stage, of transfer learning",
    )
    sweep.add_argument("--dataset", type=location, required=True, help="a data set's folder")
    sweep.add_argument("--output", type=local_path, required=True, help="the folder to write to; must hold no sweep")
    sweep.add_argument(
        "--search",
        action="append",
        default=[],
        metavar="FIELD=VALUES",
        help="a field of the experiment and what it may be: values (loss.positive-weight=1,3,10), a range "
        "(model.dropout-rate=0.2:0.6), a range that is uniform in its logarithm "
        "(optimizer.learning-rate=log:1e-4:1e-2), or so many values of a range (log:1e-4:1e-2:5); once for each field",
    )
    sweep.add_argument(
        "--strategy",
        choices=("grid", "random", "halving"),
        default="grid",
        help="grid (default): all combinations; random: as many as --trials; halving: as many, of which only the best "
        "share trains on after 1/eta^n of the epochs",
    )
    sweep.add_argument("--trials", type=_positive, metavar="N", help="random and halving: how many heads")
    sweep.add_argument(
        "--eta", type=_at_least_two, default=3, help="halving: one in so many heads goes on, so many times as long (3)"
    )
    sweep.add_argument("--draw-seed", type=_not_negative, default=0, help="of the random choice (default 0)")
    sweep.add_argument(
        "--heads-at-once", type=_positive, metavar="N", help="on each device; changes speed and memory alone"
    )
    sweep.add_argument("--no-plot", dest="plot", action="store_false", help="draw no sweep.png")
    sweep.add_argument("--top", type=_positive, default=20, metavar="N", help="rows of the table (default 20)")
    _add_json(sweep)


def _add_json(parser: Any) -> None:
    parser.add_argument("--json", action="store_true", help="print one JSON document on stdout")


def _add_checkpoint(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--checkpoint", default="best", help="best (on the validation split; default), latest, or a step"
    )


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least 1")
    return int(text)


def _at_least_two(text: str) -> int:
    if not text.isdecimal() or int(text) < 2:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least 2")
    return int(text)


def _not_negative(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least 0")
    return int(text)


def _amount(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is neither a share below 1 nor a number of photos") from None


if __name__ == "__main__":
    main()
