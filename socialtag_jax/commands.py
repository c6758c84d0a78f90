"""What each `socialtag COMMAND` does: calls one room, and prints what it found.

Rooms are imported inside their command, so that `socialtag --help` answers at once. Every function takes the parsed
command line and returns the exit code.
"""

import argparse
import io
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from socialtag_jax import storage
from socialtag_jax.errors import UsageError, UserError, printable

if TYPE_CHECKING:
    from socialtag_jax.shards.dataset import Dataset


def log(line: str) -> None:
    """One line to stderr: stdout belongs to results."""
    print(printable(line), file=sys.stderr, flush=True)


def _nothing(_: str) -> None:
    pass


def prepare(options: argparse.Namespace) -> int:
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


def stats(options: argparse.Namespace) -> int:
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
            raise UsageError("only a prepared data set can be verified", where="--verify")
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
        raise UserError(f"{len(problems):,} problems in {records:,} records", where=dataset.folder)
    log(f"verified: {records:,} records are as {dataset.folder} says")


def preview(options: argparse.Namespace) -> int:
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


def weights_fetch(_: argparse.Namespace) -> int:
    """ImageNet weights -> the cache."""
    from socialtag_jax.pretrained import imagenet_weights

    print(imagenet_weights(log=log))
    return 0


def weights_convert(options: argparse.Namespace) -> int:
    """A weight file of another library -> safetensors."""
    from socialtag_jax import pretrained

    pretrained.convert(options.file, options.output, log=log)
    print(options.output)
    return 0


def train_help(parser: argparse.ArgumentParser, arguments: Sequence[str]) -> int:
    """The help of `train`; with an experiment file, that of its fields too."""
    from socialtag_jax import experiment_files

    parser.print_help()
    for argument in arguments:
        if argument.endswith(".py"):
            print("\nThe experiment's fields, with this file's values:\n")
            experiment = experiment_files.load_experiment(Path(argument))
            experiment_files.override(experiment, ["--help"], prog="socialtag train EXPERIMENT")
    return 0


def train(options: argparse.Namespace) -> int:
    """Trains, or goes on; alone or together with other processes."""
    if not options.distributed and (options.coordinator, options.processes, options.process) == (None, None, None):
        return _train(options)
    for flag in ("input_only", "synthetic", "reuse_batch"):
        if getattr(options, flag):
            raise UsageError("measures one process", where=f"--{flag.replace('_', '-')}", hint="start it alone")
    from socialtag_jax import processes

    group = processes.Group(options.coordinator, options.processes, options.process)
    group.check()
    processes.watch(group)
    with processes.together(group):
        return _train(options)


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
    from socialtag_jax.shards.dataset import open_dataset

    dataset = open_dataset(options.dataset)
    if options.input_only:
        from socialtag_jax import input_rate, run_folder

        rate = input_rate.measure(experiment, dataset)
        # A run that trains from cached features reads no photos.
        known = None
        if options.workdir is not None and not experiment.cache.views:
            known = run_folder.last_epoch_rate(options.workdir)
        print("\n".join(input_rate.report(rate, experiment, dataset, known)))
        return 0
    from socialtag_jax import compilation_cache, stopping
    from socialtag_jax.parallel import Devices
    from socialtag_jax.train import Trainer

    compilation_cache.enable(log)
    if options.synthetic or options.reuse_batch:
        from socialtag_jax.step_rate import step_rates

        step_rates(experiment, dataset, Devices(), "synthetic" if options.synthetic else "reuse", log=print)
        return 0
    if options.workdir is None:
        raise UsageError("is required", where="--workdir", hint="name the folder that the run goes to")
    devices = Devices()
    # One process speaks for all; errors are each one's own.
    say, stream = (log, sys.stderr) if devices.is_main else (_nothing, io.StringIO())
    with stopping.on_signals() as stop:
        trainer = Trainer(experiment, dataset, options.workdir, devices=devices, stop=stop, log=say, stream=stream)
        result = trainer.run()
    say(f"done: {result.position.epoch} epochs, {result.position.step} steps; run folder: {options.workdir}")
    return 0


def sweep(options: argparse.Namespace) -> int:
    """Many heads of an experiment -> the best one."""
    from socialtag_jax import experiment_files, search_space

    experiment = experiment_files.load_experiment(options.experiment)
    experiment = experiment_files.override(experiment, options.overrides, prog=f"socialtag sweep {options.experiment}")
    space = search_space.parse_space(options.search)
    search_space.check(experiment, space)
    from socialtag_jax import compilation_cache
    from socialtag_jax.parallel import Devices
    from socialtag_jax.shards.dataset import open_dataset
    from socialtag_jax.sweep import SweepOptions, require_trained, run_sweep
    from socialtag_jax.sweep_report import as_json, table

    sweep_options = SweepOptions(
        space=space,
        strategy=options.strategy,
        trials=options.trials,
        eta=options.eta,
        draw_seed=options.draw_seed,
        heads_at_once=options.heads_at_once,
        plot=options.plot,
    )
    compilation_cache.enable(log)
    dataset = open_dataset(options.dataset)
    result = run_sweep(
        experiment, dataset, sweep_options, options.output, devices=Devices(), log=log, stream=sys.stderr
    )
    print(json.dumps(as_json(result), ensure_ascii=False) if options.json else table(result, options.top))
    if result.interrupted:
        return 130
    require_trained(result)
    return 0


def evaluate(options: argparse.Namespace) -> int:
    """Scores a run or a bundle."""
    from socialtag_jax import compilation_cache
    from socialtag_jax.evaluate import bundle_scorer, evaluate
    from socialtag_jax.evaluation_report import table, write_results
    from socialtag_jax.parallel import Devices
    from socialtag_jax.shards.dataset import open_dataset
    from socialtag_jax.tagger import is_bundle
    from socialtag_jax.trained import run_scorer

    compilation_cache.enable(log)
    dataset = open_dataset(options.dataset)
    dataset.split(options.split)
    bundle = is_bundle(options.model)
    if bundle:
        if options.checkpoint != "best":
            raise UsageError("a bundle has no checkpoints", where="--checkpoint")
        scorer = bundle_scorer(options.model)
    else:
        scorer = run_scorer(options.model, options.checkpoint, Devices(), log=log)
    output = options.output or _evaluation_folder(options.model, bundle) / options.split
    if scorer.trained_on != dataset.fingerprint:
        log("warning: not the data set that the model was trained on: photos of this split may have been trained on")
    with storage.staged(output) as folder:
        result = evaluate(
            scorer, dataset, options.split, batch_size=options.batch_size, threads=0, stream=sys.stderr, scratch=folder
        )
        write_results(result, dataset, scorer, folder)
    if options.json:
        print(json.dumps(result.summary, ensure_ascii=False))
    else:
        print(f"{scorer.name} on {dataset.name}, {options.split}: {result.summary['images']:,} images")
        print(table(result.summary))
    log(f"written to {output}")
    return 0


def doctor(options: argparse.Namespace) -> int:
    """The installation -> what it is, and whether it works."""
    from socialtag_jax import doctor

    report = doctor.examine()
    print(json.dumps(doctor.as_json(report), ensure_ascii=False) if options.json else doctor.as_text(report))
    return 1 if report.problems else 0


def _evaluation_folder(model: storage.Location, bundle: bool) -> storage.Location:
    """In a run, where it is; beside a bundle, whose files are those that it lists."""
    if not bundle:
        return model / "evaluation"
    folder = model.resolve() if isinstance(model, Path) else model
    return folder.with_name(f"{folder.name}-evaluation")


def export(options: argparse.Namespace) -> int:
    """A run -> a bundle."""
    from socialtag_jax import compilation_cache, trained
    from socialtag_jax.export import export_bundle
    from socialtag_jax.parallel import Devices

    compilation_cache.enable(log)
    model = trained.load(options.run_folder, options.checkpoint, Devices(), log=log)
    export_bundle(model, options.output, keras="keras" in options.formats)
    log(f"exported step {model.step} of {options.run_folder}")
    print(options.output)
    return 0


def predict(options: argparse.Namespace) -> int:
    """Photos -> suggested tags."""
    from socialtag_jax import compilation_cache, predict
    from socialtag_jax.tagger import Tagger

    if options.threshold is not None and not 0 <= options.threshold < 1:
        raise UsageError(f"{options.threshold}: expected 0 to below 1", where="--threshold")
    found = predict.find_photos(options.photos)
    if found.skipped:
        log(f"skipped: {predict.skipped_text(found.skipped)}")
    compilation_cache.enable(log)
    tagger = Tagger.load(options.bundle)
    photos = found.photos
    predictions = predict.predict(
        tagger, photos, threshold=options.threshold, max_tags=options.max_tags, log=log, stream=sys.stderr
    )
    if options.csv:
        read = predict.write_csv(predictions, options.csv)
        log(f"written to {options.csv}")
    elif options.json:
        results = [predict.as_json(prediction) for prediction in predictions]
        read = len(results)
        print(json.dumps(results, ensure_ascii=False))
    else:
        read = 0
        for prediction in predictions:
            # At once: whoever reads along need not wait for the last photo.
            print(predict.as_text(prediction), flush=True)
            read += 1
    if read < len(photos):
        log(f"{len(photos) - read} of {len(photos)} photos could not be read")
        return 1
    return 0
