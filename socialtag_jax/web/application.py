"""The kind of application that `serve` and `rate` add their routes to.

What both promise is here: nothing is loaded from elsewhere, no other site's page can use them through the reader's
browser, a request's body is bounded in bytes and in time, and an error is one shape of JSON.
"""

import asyncio
import ipaddress
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from socialtag_jax.web import STATIC, of_serve_extra

with of_serve_extra():
    from fastapi import FastAPI, Request
    from fastapi.exceptions import RequestValidationError
    from fastapi.responses import FileResponse, JSONResponse
    from fastapi.staticfiles import StaticFiles
    from pydantic import BaseModel, Field
    from starlette.datastructures import Headers, MutableHeaders
    from starlette.exceptions import HTTPException
    from starlette.requests import ClientDisconnect
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

_SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
_SECURITY_HEADERS = {
    # Photos that the reader chose are shown from memory: blob.
    "Content-Security-Policy": "default-src 'self'; img-src 'self' blob: data:; object-src 'none'; base-uri 'none'; "
    "form-action 'self'; frame-ancestors 'none'",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}
_BODY_BYTES = 2**20
_BODY_SECONDS = 30.0
_DRAINED_BYTES, _DRAINED_SECONDS = 2**26, 2.0
_CODES = {400: "bad_request", 404: "not_found", 405: "method_not_allowed", 422: "invalid_request"}
_LONGEST_MESSAGE = 500


class ErrorDetail(BaseModel):
    """What went wrong."""

    code: str = Field(description="one word for programs", examples=["body_too_large"])
    message: str = Field(description="one sentence for people: what is wrong, and what to do")


class ErrorBody(BaseModel):
    """The body of every answer with a status of 400 or more."""

    error: ErrorDetail


class ApiError(HTTPException):
    """A request that is refused.

    Args:
      status: of HTTP, 400 or more.
      code: one word for programs.
      message: one sentence for people.
      headers: of the answer, beyond the usual.
    """

    def __init__(self, status: int, code: str, message: str, *, headers: dict[str, str] | None = None) -> None:
        super().__init__(status, message, headers)
        self.code = code


def application(
    title: str,
    *,
    description: str,
    hosts: Iterable[str] = (),
    large_bodies: Mapping[str, int] | None = None,
    body_seconds: float = _BODY_SECONDS,
    lifespan: Callable[[Any], Any] | None = None,
) -> FastAPI:
    """An application with the pages' files under `/static`, and `/openapi.json`.

    Args:
      title: of its OpenAPI document.
      description: likewise, in Markdown.
      hosts: names, besides localhost and any address in figures, by which browsers may call it.
      large_bodies: path -> bytes that its requests' bodies may have, where that is more than 1 MiB.
      body_seconds: within which a request's body must have come.
      lifespan: of FastAPI: what is started before the first request and ended after the last.
    """
    from socialtag_jax import __version__

    app = FastAPI(
        title=title,
        description=description,
        version=__version__,
        lifespan=lifespan,
        # FastAPI's own documentation pages load their scripts from elsewhere.
        docs_url=None,
        redoc_url=None,
        responses={"4XX": {"model": ErrorBody}, "5XX": {"model": ErrorBody}},
    )
    app.add_exception_handler(HTTPException, _refused)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(ClientDisconnect, _gone)
    app.add_exception_handler(Exception, _failed)
    app.add_middleware(_Guard, names=frozenset({"localhost", *(host.lower() for host in hosts)}))
    app.add_middleware(_BoundedBody, large_bodies=large_bodies or {}, seconds=body_seconds)
    app.mount("/static", StaticFiles(directory=STATIC), name="static")
    return app


def add_page(app: FastAPI, path: str, file: str) -> None:
    """Answers GET `path` with a file of `static/`."""
    app.add_api_route(path, lambda: FileResponse(STATIC / file), methods=["GET"], include_in_schema=False)


def error_answer(status: int, code: str, message: str, headers: dict[str, str] | None = None) -> JSONResponse:
    """The one shape of an error."""
    text = message if len(message) <= _LONGEST_MESSAGE else f"{message[: _LONGEST_MESSAGE - 1]}…"
    return JSONResponse({"error": {"code": code, "message": text}}, status, headers)


async def _refused(_: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    code = error.code if isinstance(error, ApiError) else _CODES.get(error.status_code, "refused")
    headers = None if error.headers is None else dict(error.headers)
    return error_answer(error.status_code, code, str(error.detail), headers)


async def _invalid(_: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    found = [f"{'.'.join(map(str, one['loc']))}: {one['msg']}" for one in error.errors()]
    return error_answer(422, _CODES[422], "; ".join(found))


async def _gone(_: Request, __: Exception) -> JSONResponse:
    # Nobody reads this; but the figures tell it from a failure.
    return error_answer(408, "sender_gone", "the sender has gone")


async def _failed(_: Request, __: Exception) -> JSONResponse:
    # Starlette raises the error again after this answer, and uvicorn writes it to stderr.
    # This answer is made outside of `_Guard`.
    what = "the server failed at this request; its log says how"
    return error_answer(500, "internal_error", what, {**_SECURITY_HEADERS, "Cache-Control": "no-store"})


class _Guard:
    """Security headers on every answer; refuses what another site's page makes the reader's browser send.

    A page elsewhere can have its own name point to this computer (DNS rebinding), and would then pass for this site:
    so a request must call us by a name of ours, or by an address in figures, which needs no name. What changes
    something must, where a browser sends it, come from our own pages.
    """

    def __init__(self, app: ASGIApp, names: frozenset[str]) -> None:
        self._app, self._names = app, names

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                headers.update(_SECURITY_HEADERS)
                # Files are asked for again with their ETag; answers of the API are nobody's to keep.
                headers.setdefault("Cache-Control", "no-cache" if "etag" in headers else "no-store")
            await send(message)

        headers = Headers(scope=scope)
        host, origin = headers.get("host", ""), headers.get("origin")
        refusal = None
        if not _is_ours(host, self._names):
            refusal = error_answer(421, "unknown_host", "not a name of this server; see its option --allow-host")
        elif scope["method"] not in _SAFE_METHODS and origin is not None and origin.split("://")[-1] != host:
            what = (
                "this request comes from another site's page, or through a proxy that does not pass on the header Host"
            )
            refusal = error_answer(403, "other_origin", what)
        await (self._app if refusal is None else refusal)(scope, receive, guarded)


class _BoundedBody:
    """Bounds what a request's body takes, and reads to its end what is refused.

    A connection that is closed while the other side still sends is reset, and with it goes the answer that says why.
    """

    def __init__(self, app: ASGIApp, large_bodies: Mapping[str, int], seconds: float) -> None:
        self._app, self._large_bodies, self._seconds = app, large_bodies, seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        most = self._large_bodies.get(scope["path"], _BODY_BYTES)
        length = headers.get("content-length", "")
        declared = int(length) if length.isascii() and length.isdecimal() else 0
        deadline = asyncio.get_running_loop().time() + self._seconds
        read, ended = 0, "content-length" not in headers and "transfer-encoding" not in headers

        async def bounded() -> Message:
            nonlocal read, ended
            if ended:
                return await receive()
            if declared > most:
                raise _too_large(most)
            try:
                async with asyncio.timeout_at(deadline):
                    message = await receive()
            except TimeoutError:
                what = f"the request's body did not come within {self._seconds:g} seconds"
                raise ApiError(408, "body_too_slow", what, headers={"Connection": "close"}) from None
            read += len(message.get("body", b""))
            ended = not message.get("more_body", False)
            if read > most:
                raise _too_large(most)
            return message

        async def drain() -> None:
            left = _DRAINED_BYTES
            try:
                async with asyncio.timeout(_DRAINED_SECONDS):
                    while left > 0:
                        message = await receive()
                        left -= len(message.get("body", b""))
                        if not message.get("more_body", False):
                            return
            except TimeoutError:
                return

        async def answered(message: Message) -> None:
            nonlocal ended
            if message["type"] == "http.response.start" and not ended:
                ended = True
                # Who asks before sending learns from the answer not to; who is too slow has had the time.
                if "expect" not in headers and message["status"] != 408:
                    await drain()
            await send(message)

        await self._app(scope, bounded, answered)


def _too_large(most: int) -> ApiError:
    return ApiError(413, "body_too_large", f"the request's body has more than {most:,} bytes")


def _is_ours(host: str, names: frozenset[str]) -> bool:
    """Whether a Host header has one of the names, or an address in figures; whatever the port."""
    name = host.rpartition(":")[0] if host.rpartition(":")[2].isdecimal() and not host.endswith("]") else host
    if name.lower() in names:
        return True
    try:
        ipaddress.ip_address(name[1:-1] if name.startswith("[") and name.endswith("]") else name)
    except ValueError:
        return False
    return True
