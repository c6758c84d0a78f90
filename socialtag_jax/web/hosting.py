"""How a local page and its API are hosted: on this computer alone unless told otherwise, until Ctrl-C or SIGTERM."""

import asyncio
import errno
import ipaddress
import logging
import socket
from collections.abc import Callable, Sequence

from socialtag_jax import stopping
from socialtag_jax.errors import UserError
from socialtag_jax.web import of_serve_extra

with of_serve_extra():
    import uvicorn
    from fastapi import FastAPI
    from uvicorn.protocols.http.h11_impl import H11Protocol

LOOPBACK = "127.0.0.1"
_HEAD_SECONDS = 15.0


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens; port 0 takes any free one.

    Raises:
      UserError: the port is taken or not allowed, or the host is not an address of this computer.
    """
    where = f"{host}:{port}"
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
    except (OSError, UnicodeError) as error:
        what = f"not a host: {getattr(error, 'strerror', error)}"
        raise UserError(what, where=host, hint="--host 127.0.0.1 is this computer alone") from None
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        # A server that was just ended leaves its port busy for a minute; this takes it all the same.
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(1024)
    except OSError as error:
        listener.close()
        what, hint = {
            errno.EADDRINUSE: ("the port is in use", "choose another, or --port 0 for any free one"),
            errno.EACCES: ("no permission to use this port", "choose one of 1024 or more"),
            errno.EADDRNOTAVAIL: ("not an address of this computer", "--host 127.0.0.1 is this computer alone"),
        }.get(error.errno or 0, (f"cannot listen: {error.strerror or error}", None))
        raise UserError(what, where=where, hint=hint) from None
    return listener


def address(listener: socket.socket) -> str:
    """The address that a browser on this computer opens, such as `http://127.0.0.1:8000`."""
    host, port = listener.getsockname()[:2]
    # What listens everywhere listens here.
    shown = LOOPBACK if host == "0.0.0.0" else "::1" if host == "::" else str(host)
    return f"http://[{shown}]:{port}" if ":" in shown else f"http://{shown}:{port}"


def is_loopback(listener: socket.socket) -> bool:
    """Whether no other computer can reach it."""
    return ipaddress.ip_address(listener.getsockname()[0].partition("%")[0]).is_loopback


class _ImpatientProtocol(H11Protocol):
    """Closes connections whose other side sends no request, or the head of one forever, or takes no answer.

    uvicorn itself would wait.
    """

    def connection_made(self, transport: asyncio.Transport) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        super().connection_made(transport)
        self._look_again()

    def _look_again(self) -> None:
        # Each request has a cycle of its own.
        self.loop.call_later(_HEAD_SECONDS, self._look, self.cycle, self.transport.get_write_buffer_size())

    def _look(self, last: object, last_unsent: int) -> None:
        unsent = self.transport.get_write_buffer_size()
        answering = self.cycle is not None and not self.cycle.response_complete
        if unsent and unsent == last_unsent:
            # To close it would wait until all is sent.
            self.transport.abort()
        elif unsent:
            self._look_again()
        elif self.transport.is_closing():
            return
        elif self.cycle is last and not answering:
            self.transport.close()
        else:
            self._look_again()


class _Server(uvicorn.Server):
    """Tells when it answers requests, and signals."""

    def __init__(self, config: uvicorn.Config, on_start: Callable[[], None]) -> None:
        super().__init__(config)
        self._on_start = on_start

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            self._on_start()


def server(app: FastAPI, *, patience: int, on_start: Callable[[], None] = lambda: None) -> uvicorn.Server:
    """A server that is not running yet; `.run(sockets=[listener])` runs it.

    Args:
      app: to serve.
      patience: seconds that requests which are under way may take when it is asked to stop.
      on_start: called when it answers requests, and signals.
    """
    config = uvicorn.Config(
        app,
        http=_ImpatientProtocol,
        log_config=None,
        access_log=False,
        lifespan="on",
        ws="none",
        proxy_headers=False,
        server_header=False,
        timeout_graceful_shutdown=patience,
    )
    # They warn of each request that is no HTTP, or no form: anybody could fill the log.
    logging.getLogger("uvicorn.error").setLevel(logging.ERROR)
    logging.getLogger("python_multipart").setLevel(logging.CRITICAL)
    return _Server(config, on_start)


def run(app: FastAPI, listener: socket.socket, *, log: Callable[[str], None], patience: int = 30) -> int:
    """Serves until Ctrl-C or SIGTERM, finishes the requests that are under way, and returns the exit code.

    Prints the address to stdout when requests, and signals, are answered. A second Ctrl-C waits for no request. For the
    main thread.

    Args:
      app: to serve.
      listener: from `listen`.
      log: takes lines for the user.
      patience: seconds that requests may still take.
    """
    with stopping.on_signals() as request:

        def on_start() -> None:
            if request.signal is not None:  # before uvicorn took the signals
                # From its main loop it ends in order.
                asyncio.get_running_loop().call_soon(setattr, running, "should_exit", True)
            print(address(listener), flush=True)

        # uvicorn takes the signals meanwhile, and raises them again when it has ended.
        running = server(app, patience=patience, on_start=on_start)
        running.run(sockets=[listener])
    if request.signal is None:
        raise UserError("the server ended by itself", where=address(listener), hint="the lines above say why")
    log(f"stopped by {request.signal.name}")
    return stopping.Stopped(request.signal).exit_code


def names_of(options: Sequence[str], host: str) -> list[str]:
    """The names by which browsers may call a server: those of `--allow-host`, and its own.

    This computer's name counts where others can reach it.
    """
    return [*options, host] if host in (LOOPBACK, "localhost", "::1") else [*options, host, socket.gethostname()]
