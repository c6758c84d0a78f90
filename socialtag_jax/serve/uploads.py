"""A request's photos: the parts of a form, or the body itself, read into memory that all requests share."""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass

from python_multipart import FormParser
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import Field, File, parse_options_header
from starlette.requests import Request

from socialtag_jax.serve.limits import Limits
from socialtag_jax.web.application import ApiError

FIELD = "photos"
"""The form's field, as often as there are photos."""

_LONGEST_NAME = 255


@dataclass(frozen=True, slots=True)
class Upload:
    """A photo file as it was sent.

    Attributes:
      name: what the sender calls it; None where the body is the photo.
      data: its bytes.
    """

    name: str | None
    data: bytes


class Memory:
    """How many bytes of bodies all requests hold together.

    Args:
      most: that they may.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._held = 0

    @property
    def held(self) -> int:
        """Bytes."""
        return self._held

    @contextlib.contextmanager
    def share(self) -> Iterator["Share"]:
        """One request's part, which is given back at the end."""
        share = Share(self)
        try:
            yield share
        finally:
            self._held -= share.held

    def take(self, count: int) -> bool:
        """Whether there is room for so many bytes more, which are then taken."""
        if self._held + count > self._most:
            return False
        self._held += count
        return True


class Share:
    """What one request holds of a `Memory`."""

    def __init__(self, memory: Memory) -> None:
        self._memory = memory
        self.held = 0

    def take(self, count: int) -> bool:
        """Whether there is room for so many bytes more, which are then taken."""
        taken = self._memory.take(count)
        self.held += count if taken else 0
        return taken


class NoRoomError(Exception):
    """The requests of now hold all the memory that they may."""


async def read(request: Request, limits: Limits, share: Share) -> list[Upload]:
    """A request's photos, at least one.

    The declared content type tells a form from a photo; what a photo is, its bytes tell.

    Raises:
      ApiError: no photo, too many or too large ones, or a form that is none.
      NoRoomError: there is no room for them now.
    """
    kind, options = parse_options_header(request.headers.get("content-type"))
    encoding = request.headers.get("content-encoding", "identity").lower()
    if encoding != "identity":
        raise ApiError(415, "unsupported_encoding", f"expected the bytes as they are, found {encoding[:40]!r}")
    if kind == b"multipart/form-data":
        if not options.get(b"boundary"):
            raise ApiError(400, "bad_form", "the content type names no boundary")
        uploads = await _form(request, options[b"boundary"], limits, share)
    elif kind.startswith(b"image/") or kind == b"application/octet-stream":
        data = bytearray()
        async for chunk in request.stream():
            _hold(share, len(chunk))
            data += chunk
            if len(data) > limits.photo_bytes:
                raise _too_large(limits)
        uploads = [Upload(None, bytes(data))]
    else:
        what = f"expected multipart/form-data with a field {FIELD!r}, or a photo as image/* or application/octet-stream"
        raise ApiError(415, "unsupported_content_type", what)
    if not any(upload.data for upload in uploads):
        raise ApiError(422, "no_photos", "the request has no photo, or empty ones only")
    return uploads


async def _form(request: Request, boundary: bytes, limits: Limits, share: Share) -> list[Upload]:
    uploads: list[Upload] = []
    ended = False

    def on_file(file: File) -> None:
        if file.field_name != FIELD.encode():
            raise _unexpected(file.field_name)
        if len(uploads) == limits.photos:
            raise ApiError(413, "too_many_photos", f"expected at most {limits.photos} photos in a request")
        if file.size > limits.photo_bytes:
            raise _too_large(limits)
        file.file_object.seek(0)
        uploads.append(Upload(_name(file.file_name or b""), file.file_object.read()))

    def on_field(field: Field) -> None:
        raise _unexpected(field.field_name)

    def on_end() -> None:
        nonlocal ended
        ended = True

    try:
        # Kept in memory, which is bounded by `share`; nothing of a photo is written to disk.
        config = {"MAX_MEMORY_FILE_SIZE": float("inf"), "UPLOAD_ERROR_ON_BAD_CTE": True}
        parser = FormParser("multipart/form-data", on_field, on_file, on_end, boundary, config=config)
        async for chunk in request.stream():
            _hold(share, len(chunk))
            parser.write(chunk)
        parser.finalize()
    except (FormParserError, AssertionError, LookupError) as error:
        # Where parts come in an order that no form has, the parser's own assertions fail.
        raise ApiError(400, "bad_form", f"not a form as multipart/form-data: {str(error) or 'no part'}") from error
    if not ended:
        raise ApiError(400, "bad_form", "the form has no end: the last boundary is missing")
    return uploads


def _hold(share: Share, count: int) -> None:
    if not share.take(count):
        raise NoRoomError


def _too_large(limits: Limits) -> ApiError:
    return ApiError(413, "photo_too_large", f"expected at most {limits.photo_bytes:,} bytes in a photo")


def _unexpected(name: bytes | None) -> ApiError:
    found = (name or b"")[:40].decode("utf-8", "replace")
    return ApiError(422, "unexpected_field", f"expected files in the field {FIELD!r} alone, found the field {found!r}")


def _name(name: bytes) -> str:
    """As the sender wrote it, without folders; only ever shown."""
    text = name.decode("utf-8", "replace").replace("\\", "/").rpartition("/")[2]
    return text[:_LONGEST_NAME]
