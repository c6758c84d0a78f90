"""`serve`: a page and an API that suggest tags."""

import argparse
import socket
from pathlib import Path

from socialtag_jax.commands.arguments import Commands, add_hosting, log, positive
from socialtag_jax.errors import UsageError
from socialtag_jax.storage import Location, local_path, location

_EXAMPLES = """\
  socialtag serve holiday.tagger                        # the page, on http://127.0.0.1:8000, for this computer alone
  socialtag serve holiday.tagger --port 0               # on any free port, which it prints
  socialtag serve holiday.tagger --host 0.0.0.0         # for every computer and phone that reaches this one
  curl --data-binary @beach.jpg -H 'Content-Type: image/jpeg' 'http://127.0.0.1:8000/v1/tags?threshold=0.5'
  curl -F photos=@beach.jpg -F photos=@snow.png http://127.0.0.1:8000/v1/tags
"""


def add_serve(commands: Commands) -> None:
    """`socialtag serve`."""
    command = commands.add(
        "serve",
        run_serve,
        "Serve a page and an API that suggest tags, until Ctrl-C.",
        examples=_EXAMPLES,
    )
    command.add_argument("bundle", type=location, metavar="BUNDLE", help="an exported bundle")
    add_hosting(command, 8000)
    command.add_argument(
        "--feedback",
        type=local_path,
        metavar="FILE",
        help="where accepted and rejected suggestions are appended, one JSON object a line "
        "(default: BUNDLE-feedback.jsonl beside the bundle)",
    )
    command.add_argument("--max-photos", type=positive, default=32, metavar="N", help="of one request (default 32)")
    command.add_argument("--max-megabytes", type=positive, default=32, metavar="N", help="of one photo (default 32)")
    command.add_argument("--max-megapixels", type=positive, default=50, metavar="N", help="of one photo (default 50)")
    command.add_argument(
        "--max-waiting",
        type=positive,
        default=128,
        metavar="N",
        help="photos that wait at once; further ones are answered with 503 (default 128)",
    )
    command.add_argument(
        "--timeout",
        type=positive,
        default=30,
        metavar="SECONDS",
        help="for a request to arrive, and again for its answer (default 30)",
    )


def run_serve(options: argparse.Namespace) -> int:
    """A bundle -> a server, until it is asked to stop."""
    if options.max_waiting < options.max_photos:
        hint = f"--max-waiting {options.max_photos}, or a smaller --max-photos"
        raise UsageError(f"{options.max_waiting}: expected at least --max-photos", where="--max-waiting", hint=hint)
    from socialtag_jax import compilation_cache
    from socialtag_jax.shards.images import LARGEST_PIXELS
    from socialtag_jax.tagger import MAX_BATCH, Tagger
    from socialtag_jax.web import hosting

    pixels = options.max_megapixels * 1_000_000
    if pixels > LARGEST_PIXELS:
        most = LARGEST_PIXELS // 1_000_000
        raise UsageError(f"{options.max_megapixels}: expected at most {most}", where="--max-megapixels")
    with hosting.listen(options.host, options.port) as listener:
        from socialtag_jax.serve.app import tagging_app
        from socialtag_jax.serve.feedback import FeedbackFile
        from socialtag_jax.serve.limits import Limits
        from socialtag_jax.serve.tagging import warm_up

        compilation_cache.enable(log)
        tagger = Tagger.load(options.bundle)
        feedback = FeedbackFile(options.feedback or _feedback_file(options.bundle))
        photo_bytes = options.max_megabytes * 2**20
        request_bytes = max(Limits.request_bytes, photo_bytes)
        limits = Limits(
            photos=options.max_photos,
            photo_bytes=photo_bytes,
            request_bytes=request_bytes,
            pixels=pixels,
            seconds=float(options.timeout),
            waiting=options.max_waiting,
            held_bytes=max(Limits.held_bytes, request_bytes),
        )
        log(f"compiling the model for batches of up to {MAX_BATCH} photos")
        warm_up(tagger)
        app = tagging_app(tagger, limits, feedback, hosts=hosting.names_of(options.allow_host, options.host))
        if not hosting.is_loopback(listener):
            log(
                "warning: every computer that reaches this one can use the page and the API, "
                f"as http://{socket.gethostname()}:{listener.getsockname()[1]} or by its address; there is no password"
            )
        log(f"serving {tagger.description['name']} ({len(tagger.vocabulary):,} tags) until Ctrl-C")
        log(f"choices are appended to {feedback.path}")
        return hosting.run(app, listener, log=log, patience=options.timeout)


def _feedback_file(bundle: Location) -> Path:
    """Beside a local bundle, whose files are those that it lists; else in the current folder."""
    if isinstance(bundle, Path):
        folder = bundle.resolve()
        return folder.with_name(f"{folder.name}-feedback.jsonl")
    return Path(f"{bundle.name}-feedback.jsonl")
