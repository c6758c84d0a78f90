"""`socialtag COMMAND`: parses the command line, calls one room, prints what it found.

Rooms are imported inside their command, so that `--help` answers at once.
"""

import argparse
import io
import json
import logging
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

from socialtag_jax.errors import UsageError, UserError


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Runs the command line; exits with 0, 1 (failure), 2 (usage) or 130 (interrupted)."""
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
        message = " ".join(str(error).split())
        print(f"socialtag: error: {message}", file=sys.stderr)
        sys.exit(error.exit_code)
    except BrokenPipeError:
        # The reader of our output (`| head`) has gone; so do we, quietly.
        sys.stderr.close()
        sys.exit(1)
    except OSError as error:
        print(f"socialtag: error: {error.filename or 'system'}: {error.strerror or error}", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        print("\nsocialtag: interrupted; run the same command again to go on", file=sys.stderr)
        sys.stdout.flush()
        sys.stderr.flush()
        # Everything of ours is closed; a compilation that XLA is still at would crash the interpreter's orderly end.
        os._exit(130)


def _run(arguments: list[str]) -> int:
    parser, train = _parser()
    if arguments[:1] == ["train"] and {"-h", "--help"} & set(arguments):
        return _train_help(train, arguments[1:])
    options, rest = parser.parse_known_args(arguments)
    if options.command == "train":
        options.overrides = rest
    elif rest:
        parser.error(f"unknown arguments: {' '.join(rest)} (see: socialtag {options.command} --help)")
    return options.run(options)


def _parser() -> tuple[argparse.ArgumentParser, argparse.ArgumentParser]:
    from socialtag_jax import __version__
    from socialtag_jax.sources import SOURCES

    parser = argparse.ArgumentParser(
        prog="socialtag",
        description="Train a photo-tag predictor on your own tagged photos, and use it.",
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"socialtag-jax {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def add(name: str, run: Any, text: str, **options: Any) -> argparse.ArgumentParser:
        command = commands.add_parser(name, help=text, description=text, allow_abbrev=False, **options)
        command.set_defaults(run=run)
        return command

    _add_prepare(add("prepare", _prepare, "Turn tagged photos into a data set of TFRecord shards."))

    stats = add("stats", _stats, "Print tag statistics of a data set, or of a source's label files.")
    stats.add_argument("dataset", type=Path, help="a data set's folder, as `prepare` printed it; or a source's")
    stats.add_argument("--source", choices=SOURCES[:-1], help="count the labels of such a source, without its images")
    stats.add_argument("--tag-separator", default=" ", help="between the tags of a CSV cell (default: a space)")
    _add_pruning(stats)
    stats.add_argument("--seed", type=_not_negative, default=0, help="of the balancing (default 0)")
    stats.add_argument(
        "--top", type=_positive, default=10, metavar="N", help="how many of the most frequent tags (default 10)"
    )
    _add_json(stats)

    preview = add("preview", _preview, "Write a PNG of photos as the network sees them.")
    preview.add_argument("dataset", type=Path, help="a data set's folder")
    preview.add_argument("--augmented", action="store_true", help="beside each photo, augmented versions of it")
    preview.add_argument("--split", default="train", help="train (default), validation or test")
    preview.add_argument("--output", type=Path, default=Path("preview.png"), help="the file (default preview.png)")
    preview.add_argument("--input-size", type=_positive, default=224, help="of a cell, in pixels (default 224)")
    preview.add_argument("--rows", type=_positive, default=5, help="default 5")
    preview.add_argument("--columns", type=_positive, default=6, help="default 6")
    preview.add_argument("--seed", type=_not_negative, default=0, help="of the choice and the augmentation (default 0)")

    weights = add("weights", None, "Get or convert VGG16 weights.")
    actions = weights.add_subparsers(dest="action", required=True, metavar="ACTION")
    fetch = actions.add_parser("fetch", help="fetch ImageNet weights into the cache", allow_abbrev=False)
    fetch.set_defaults(run=_weights_fetch)
    convert = actions.add_parser(
        "convert",
        help="convert a weight file (.h5, .keras, .weights.h5, .safetensors, .onnx, .npz)",
        description="Writes VGG16's convolutions, and the tag head if the file has one: two dense layers from 512 "
        "features to tags. The tags' names are not in the file: to train on from a head, the data set's "
        "tags.labels.txt must list them in the same order.",
        allow_abbrev=False,
    )
    convert.add_argument("file", type=Path, help="the file to convert; pickles (.pt, .pth, .pkl) are refused")
    convert.add_argument("--output", type=Path, required=True, help="the .safetensors file to write")
    convert.set_defaults(run=_weights_convert)

    train = add(
        "train",
        _train,
        "Train an experiment on a data set. Run the same command again to go on with an interrupted run.",
        epilog="Any field of the experiment can be set, for example --optimizer.learning-rate 3e-4 or "
        "--stages.0.epochs 2; socialtag train EXPERIMENT --help lists them all with that file's values.",
    )
    train.add_argument("experiment", type=Path, metavar="EXPERIMENT", help="an experiment file (see experiments/)")
    train.add_argument("--dataset", type=Path, required=True, help="a data set's folder")
    train.add_argument("--workdir", type=Path, required=True, help="the run folder: checkpoints, metrics, TensorBoard")
    train.add_argument(
        "--debug",
        action="store_true",
        help="try the experiment in a minute: 4 simulated CPU devices, 48 px, 2 epochs of 4 batches of 8 images",
    )

    evaluate = add("evaluate", _evaluate, "Score a run or a bundle on a split, beside the popularity baseline.")
    evaluate.add_argument("model", type=Path, metavar="RUN_OR_BUNDLE", help="a run folder or an exported bundle")
    evaluate.add_argument("--dataset", type=Path, required=True, help="a data set's folder")
    evaluate.add_argument("--split", default="test", help="train, validation or test (default)")
    evaluate.add_argument(
        "--output",
        type=Path,
        help="for metrics.json, per_tag.csv, predictions.csv; default: "
        "RUN/evaluation/SPLIT, or BUNDLE-evaluation/SPLIT",
    )
    evaluate.add_argument("--batch-size", type=_positive, default=64, help="changes no score (default 64)")
    _add_checkpoint(evaluate)
    _add_json(evaluate)

    export = add("export", _export, "Export a run's checkpoint as a bundle that suggests tags.")
    export.add_argument("run_folder", type=Path, metavar="RUN", help="a run folder")
    export.add_argument("--output", type=Path, required=True, help="the bundle's folder; must not exist")
    export.add_argument(
        "--formats",
        nargs="+",
        choices=("stablehlo", "keras"),
        default=["stablehlo"],
        help="stablehlo (default), which the bundle's own loader needs, is always written; "
        "keras adds model.keras, for keras.saving.load_model",
    )
    _add_checkpoint(export)

    predict = add("predict", _predict, "Suggest tags for photos.")
    predict.add_argument("bundle", type=Path, metavar="BUNDLE", help="an exported bundle")
    predict.add_argument(
        "photos", type=Path, nargs="+", metavar="PHOTO_OR_FOLDER", help="image files, or folders of them"
    )
    predict.add_argument("--threshold", type=float, help="only tags with a confidence over it (default: the bundle's)")
    predict.add_argument("--max-tags", type=_positive, help="at most so many tags (default: the bundle's)")
    output = predict.add_mutually_exclusive_group()
    _add_json(output)
    output.add_argument("--csv", type=Path, metavar="FILE", help="write a CSV file instead of printing")
    return parser, train


def _add_prepare(prepare: argparse.ArgumentParser) -> None:
    from socialtag_jax.sources import SOURCES

    prepare.add_argument(
        "--source", choices=SOURCES, required=True, help="what the input is; postcards draws a demo set"
    )
    prepare.add_argument(
        "--input",
        type=Path,
        required=True,
        help="a CSV file (path,tags[,split]) or its folder; harrison: the lists' folder; mirflickr: its folder; "
        "postcards: where to draw",
    )
    prepare.add_argument("--output", type=Path, required=True, help="the folder of all data sets")
    prepare.add_argument(
        "--overlay", type=Path, help="harrison: a folder of images that replace others of the same path"
    )
    prepare.add_argument("--name", help="the data set's name (default: from the input's)")
    prepare.add_argument("--version", default="1.0.0", help="the data set's version (default 1.0.0)")
    prepare.add_argument("--tag-separator", default=" ", help="between the tags of a cell (default: a space)")
    _add_pruning(prepare)
    prepare.add_argument(
        "--tag-order",
        type=Path,
        metavar="FILE",
        help="the tags in the order of the model's outputs, one a line, whether photos have them or not; others are "
        "dropped (default: those that pruning leaves, most frequent first)",
    )
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


def _not_negative(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least 0")
    return int(text)


def _amount(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is neither a share below 1 nor a number of photos") from None


def log(line: str) -> None:
    """One line to stderr: stdout belongs to results."""
    print(line, file=sys.stderr, flush=True)


def _prepare(options: argparse.Namespace) -> int:
    from socialtag_jax import sources
    from socialtag_jax.rules import parse_balancing, parse_pruning, read_tag_order
    from socialtag_jax.shards.prepare import PrepareOptions, prepare

    prepare_options = PrepareOptions(
        name=options.name or sources.dataset_name(options.source, options.input),
        version=options.version,
        image_size=options.image_size,
        seed=options.seed,
        validation=options.validation,
        test=options.test,
        pruning=parse_pruning(options.pruning),
        tag_order=None if options.tag_order is None else read_tag_order(options.tag_order),
        balancing=parse_balancing(options.balancing),
        allow_leaks=options.allow_leaks,
        workers=options.workers,
    )
    source = sources.SourceOptions(
        source=options.source,
        path=options.input,
        tag_separator=options.tag_separator,
        overlay=options.overlay,
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


def _stats(options: argparse.Namespace) -> int:
    from socialtag_jax import stats

    if options.source is None:
        from socialtag_jax.shards.dataset import open_dataset

        if options.pruning or options.balancing:
            hint = "name a --source, or give the rules to `socialtag prepare`"
            raise UsageError("a prepared data set keeps its tags", where="--pruning, --balancing", hint=hint)
        dataset = open_dataset(options.dataset)
        name, folder, report = dataset.name, dataset.folder, stats.of_dataset(dataset)
    else:
        from socialtag_jax import sources
        from socialtag_jax.rules import parse_balancing, parse_pruning

        source = sources.SourceOptions(
            options.source, options.dataset, tag_separator=options.tag_separator, need_images=False
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


def _preview(options: argparse.Namespace) -> int:
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


def _weights_fetch(_: argparse.Namespace) -> int:
    from socialtag_jax.pretrained import imagenet_weights

    print(imagenet_weights(log=log))
    return 0


def _weights_convert(options: argparse.Namespace) -> int:
    from socialtag_jax import pretrained

    pretrained.convert(options.file, options.output, log=log)
    print(options.output)
    return 0


def _train_help(parser: argparse.ArgumentParser, arguments: Sequence[str]) -> int:
    from socialtag_jax import experiment_files

    parser.print_help()
    for argument in arguments:
        if argument.endswith(".py"):
            print("\nThe experiment's fields, with this file's values:\n")
            experiment = experiment_files.load_experiment(Path(argument))
            experiment_files.override(experiment, ["--help"], prog="socialtag train EXPERIMENT")
    return 0


def _train(options: argparse.Namespace) -> int:
    from socialtag_jax import config, experiment_files

    experiment = experiment_files.load_experiment(options.experiment)
    experiment = experiment_files.override(experiment, options.overrides, prog=f"socialtag train {options.experiment}")
    if options.debug:
        import jax

        experiment = config.debug(experiment)
        # Before any device is touched.
        jax.config.update("jax_platforms", "cpu")
        jax.config.update("jax_num_cpu_devices", config.DEBUG_DEVICES)
    from socialtag_jax.parallel import Devices
    from socialtag_jax.shards.dataset import open_dataset
    from socialtag_jax.train import Trainer

    dataset = open_dataset(options.dataset)
    trainer = Trainer(experiment, dataset, options.workdir, devices=Devices(), log=log, stream=sys.stderr)
    result = trainer.run()
    log(f"done: {result.position.epoch} epochs, {result.position.step} steps; run folder: {options.workdir}")
    return 0


def _evaluate(options: argparse.Namespace) -> int:
    from socialtag_jax.evaluate import bundle_scorer, evaluate
    from socialtag_jax.evaluation_report import table, write_results
    from socialtag_jax.parallel import Devices
    from socialtag_jax.shards.dataset import open_dataset
    from socialtag_jax.tagger import is_bundle
    from socialtag_jax.trained import run_scorer

    dataset = open_dataset(options.dataset)
    dataset.split(options.split)
    bundle = is_bundle(options.model)
    if bundle:
        if options.checkpoint != "best":
            raise UsageError("a bundle has no checkpoints", where="--checkpoint")
        scorer = bundle_scorer(options.model)
    else:
        scorer = run_scorer(options.model, options.checkpoint, Devices(), log=log)
    folder = options.model.resolve()
    default = folder.with_name(f"{folder.name}-evaluation") if bundle else options.model / "evaluation"
    output = options.output or default / options.split
    if scorer.trained_on != dataset.fingerprint:
        log("warning: not the data set that the model was trained on: photos of this split may have been trained on")
    output.mkdir(parents=True, exist_ok=True)
    result = evaluate(
        scorer, dataset, options.split, batch_size=options.batch_size, threads=0, stream=sys.stderr, scratch=output
    )
    write_results(result, dataset, scorer, output)
    if options.json:
        print(json.dumps(result.summary, ensure_ascii=False))
    else:
        print(f"{scorer.name} on {dataset.name}, {options.split}: {result.summary['images']:,} images")
        print(table(result.summary))
    log(f"written to {output}")
    return 0


def _export(options: argparse.Namespace) -> int:
    from socialtag_jax import trained
    from socialtag_jax.export import export_bundle
    from socialtag_jax.parallel import Devices

    model = trained.load(options.run_folder, options.checkpoint, Devices(), log=log)
    export_bundle(model, options.output, keras="keras" in options.formats)
    log(f"exported step {model.step} of {options.run_folder}")
    print(options.output)
    return 0


def _predict(options: argparse.Namespace) -> int:
    from socialtag_jax import predict
    from socialtag_jax.tagger import Tagger

    if options.threshold is not None and not 0 <= options.threshold < 1:
        raise UsageError(f"{options.threshold}: expected 0 to below 1", where="--threshold")
    photos = predict.find_photos(options.photos)
    tagger = Tagger.load(options.bundle)
    results = predict.predict(tagger, photos, threshold=options.threshold, max_tags=options.max_tags, log=log)
    if options.json:
        print(json.dumps(results, ensure_ascii=False))
    elif options.csv:
        predict.write_csv(results, options.csv)
        log(f"written to {options.csv}")
    else:
        for result in results:
            tags = "  ".join(f"{one['display']} {one['confidence']:.2f}" for one in result["tags"])
            print(f"{result['path']}: {tags or '(no tag over the threshold)'}")
    unreadable = len(photos) - len(results)
    if unreadable:
        log(f"{unreadable} of {len(photos)} photos could not be read")
    return 1 if unreadable else 0


if __name__ == "__main__":
    main()
