"""`report`: two evaluations side by side."""

import argparse
from pathlib import Path

from socialtag_jax.commands.arguments import Commands, log
from socialtag_jax.storage import local_path, location

_EXAMPLES = """examples:
  socialtag evaluate runs/one --dataset data/holiday      # writes runs/one/evaluation/test/report.html
  socialtag evaluate runs/two --dataset data/holiday
  socialtag report runs/one runs/two --dataset data/holiday --output one_two.html
"""


def add_report(commands: Commands) -> None:
    """`socialtag report`."""
    command = commands.add(
        "report",
        run_report,
        "Compare two evaluations of the same photos, as one HTML page.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    for name, letter in (("first", "A"), ("second", "B")):
        command.add_argument(
            name,
            type=location,
            metavar=f"RUN_{letter}",
            help="a run or a bundle that was evaluated, or an evaluation's folder",
        )
    command.add_argument("--split", default="test", help="that both were evaluated on (default test)")
    command.add_argument("--dataset", type=location, help="that both were evaluated on, to show its photos")
    command.add_argument(
        "--output", type=local_path, default=Path("comparison.html"), help="the page (default comparison.html)"
    )


def run_report(options: argparse.Namespace) -> int:
    """Two evaluations -> a page."""
    from socialtag_jax import files
    from socialtag_jax.report import comparison_page, evaluation_files, page
    from socialtag_jax.shards.dataset import open_dataset

    page.require_packages()
    first, second = (evaluation_files.find(where, options.split) for where in (options.first, options.second))
    dataset = None if options.dataset is None else open_dataset(options.dataset)
    text = comparison_page.comparison_page(first, second, dataset)
    options.output.parent.mkdir(parents=True, exist_ok=True)
    files.write_text(options.output, text)
    log(f"A: {first.folder}")
    log(f"B: {second.folder}")
    print(options.output)
    return 0
