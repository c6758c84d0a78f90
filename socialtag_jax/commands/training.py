"""`train` and `sweep`."""

import argparse
import io
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from socialtag_jax.commands.arguments import GO_ON, Commands, add_json, at_least_two, log, not_negative, positive
from socialtag_jax.errors import UsageError
from socialtag_jax.storage import local_path, location

_TRAIN_EXAMPLES = """\
  socialtag train experiments/corel5k_quick.py --dataset data/holiday --workdir runs/holiday --debug
  socialtag train holiday.py --dataset data/holiday --workdir runs/holiday
  socialtag train holiday.py --dataset data/holiday --workdir runs/holiday --optimizer.learning-rate 3e-4
  socialtag train holiday.py --dataset data/holiday --input-only
  socialtag train holiday.py --help                                      # all fields, with this file's values

Any field of the experiment can be set, as --stages.0.epochs 2. Stopped or killed at any time, the same command goes on
where it was."""


def add_train(commands: Commands) -> argparse.ArgumentParser:
    """`socialtag train`; returns its parser, for `train_help`."""
    command = commands.add(
        "train",
        run_train,
        "Train an experiment on a data set. Run the same command again to go on with an interrupted run.",
        examples=_TRAIN_EXAMPLES,
        interrupted=GO_ON,
    )
    command.add_argument(
        "experiment", type=local_path, metavar="EXPERIMENT", help="an experiment file (see experiments/)"
    )
    command.add_argument("--dataset", type=location, required=True, help="a data set's folder")
    command.add_argument("--workdir", type=location, help="the run folder: checkpoints, metrics, TensorBoard")
    command.add_argument(
        "--debug",
        action="store_true",
        help="try the experiment in a minute: 4 simulated CPU devices, 48 px, 2 epochs of 4 batches of 8 images",
    )
    measured = command.add_mutually_exclusive_group()
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

    together = command.add_argument_group(
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
    together.add_argument("--processes", type=positive, metavar="N", help="and how many there are")
    together.add_argument("--process", type=not_negative, metavar="I", help="and which of them this is, from 0")
    return command


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


def run_train(options: argparse.Namespace) -> int:
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


def _nothing(_: str) -> None:
    pass


_SWEEP_EXAMPLES = """\
  socialtag sweep holiday.py --dataset data/holiday --output sweeps/first --cache.views 1 \\
      --search optimizer.learning-rate=log:1e-4:1e-2:5 --search loss.positive-weight=1,3,10
  socialtag sweep holiday.py --dataset data/holiday --output sweeps/second --cache.views 1 \\
      --search optimizer.learning-rate=log:1e-4:1e-2 --strategy halving --trials 27

Any field of the experiment can be set as in `socialtag train`, as --stages.0.epochs 20. The output folder gets
sweep.json (all heads, with their curves), best.py (the winner, an experiment file for `socialtag train`) and
sweep.png."""


def add_sweep(commands: Commands) -> None:
    """`socialtag sweep`."""
    command = commands.add(
        "sweep",
        run_sweep,
        "Train many tag heads at once over cached features, and find the best on the validation split.",
        examples=_SWEEP_EXAMPLES,
    )
    command.add_argument(
        "experiment",
        type=local_path,
        metavar="EXPERIMENT",
        help="an experiment file with one stage, of transfer learning",
    )
    command.add_argument("--dataset", type=location, required=True, help="a data set's folder")
    command.add_argument("--output", type=local_path, required=True, help="the folder to write to; must hold no sweep")
    command.add_argument(
        "--search",
        action="append",
        default=[],
        metavar="FIELD=VALUES",
        help="a field of the experiment and what it may be: values (loss.positive-weight=1,3,10), a range "
        "(model.dropout-rate=0.2:0.6), a range that is uniform in its logarithm "
        "(optimizer.learning-rate=log:1e-4:1e-2), or so many values of a range (log:1e-4:1e-2:5); once for each field",
    )
    command.add_argument(
        "--strategy",
        choices=("grid", "random", "halving"),
        default="grid",
        help="grid (default): all combinations; random: as many as --trials; halving: as many, of which only the best "
        "share trains on after 1/eta^n of the epochs",
    )
    command.add_argument("--trials", type=positive, metavar="N", help="random and halving: how many heads")
    command.add_argument(
        "--eta", type=at_least_two, default=3, help="halving: one in so many heads goes on, so many times as long (3)"
    )
    command.add_argument("--draw-seed", type=not_negative, default=0, help="of the random choice (default 0)")
    command.add_argument(
        "--heads-at-once", type=positive, metavar="N", help="on each device; changes speed and memory alone"
    )
    command.add_argument("--no-plot", dest="plot", action="store_false", help="draw no sweep.png")
    command.add_argument("--top", type=positive, default=20, metavar="N", help="rows of the table (default 20)")
    add_json(command)


def run_sweep(options: argparse.Namespace) -> int:
    """Many heads of an experiment -> the best one."""
    from socialtag_jax import experiment_files, search_space, sweep

    experiment = experiment_files.load_experiment(options.experiment)
    experiment = experiment_files.override(experiment, options.overrides, prog=f"socialtag sweep {options.experiment}")
    space = search_space.parse_space(options.search)
    search_space.check(experiment, space)
    from socialtag_jax import compilation_cache
    from socialtag_jax.parallel import Devices
    from socialtag_jax.shards.dataset import open_dataset
    from socialtag_jax.sweep_report import as_json, table

    sweep_options = sweep.SweepOptions(
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
    result = sweep.run_sweep(
        experiment, dataset, sweep_options, options.output, devices=Devices(), log=log, stream=sys.stderr
    )
    print(json.dumps(as_json(result), ensure_ascii=False) if options.json else table(result, options.top))
    if result.interrupted:
        log("a sweep does not go on; the features are kept, and the same command with another --output finds them")
        return 130
    sweep.require_trained(result)
    return 0
