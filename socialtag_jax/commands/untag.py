"""`untag`: what `predict --write-xmp` wrote, taken out again."""

import argparse
import sys

from socialtag_jax.commands.arguments import GO_ON, Commands, log
from socialtag_jax.errors import UserError
from socialtag_jax.storage import local_path

_EXAMPLES = """\
  socialtag untag ~/Pictures --dry-run
  socialtag untag ~/Pictures
  socialtag untag photo.jpg other.jpg.xmp

What you or another program wrote stays as it is. A sidecar that holds nothing else is deleted.
Exit code 1: some sidecars could not be read, and were left alone; each is named."""


def add_untag(commands: Commands) -> None:
    """`socialtag untag`."""
    command = commands.add(
        "untag",
        run_untag,
        "Take out of XMP sidecars the tags that `predict --write-xmp` put in, and nothing else.",
        examples=_EXAMPLES,
        interrupted=GO_ON,
    )
    command.add_argument(
        "paths", type=local_path, nargs="+", metavar="FOLDER", help="folders, as deep as they go; or photos or sidecars"
    )
    command.add_argument("--dry-run", action="store_true", help="print what would change, as a diff")


def run_untag(options: argparse.Namespace) -> int:
    """Sidecars -> the same without tags of ours."""
    from socialtag_jax import sidecars
    from socialtag_jax.progress import Progress

    found = sidecars.find(options.paths)
    if not options.dry_run:
        sidecars.sweep(options.paths)
    progress = Progress("untag", len(found), "sidecars", sys.stderr)
    deleted = changed = left = 0
    for number, path in enumerate(found, start=1):
        try:
            change = sidecars.untagging(path)
            if options.dry_run:
                progress.clear()
                print(change.diff(), end="")
            else:
                change.apply()
        except UserError as error:
            progress.clear()
            log(f"socialtag: error: {error}: left alone")
            left += 1
            continue
        if change.is_needed:
            deleted += change.after is None
            changed += change.after is not None
        progress.update(number)
    progress.clear()
    would = "would be " if options.dry_run else ""
    log(
        f"of {len(found):,} sidecars, {changed:,} {would}freed of our tags; {deleted:,} that held nothing else "
        f"{would}deleted; {left:,} left alone"
    )
    return 1 if left else 0
