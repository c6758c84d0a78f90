"""What a tagging server takes, and holds, at most."""

from dataclasses import dataclass

from socialtag_jax.tagger import MAX_BATCH


@dataclass(frozen=True)
class Limits:
    """Beyond each of them a request is refused with an answer that says so.

    Attributes:
      photos: of one request.
      photo_bytes: of one photo file.
      request_bytes: of one request's body.
      pixels: width times height of one photo.
      seconds: within which a request's body must have come, and again within which its photos are tagged.
      waiting: photos of all requests that are not tagged yet.
      held_bytes: of all requests' bodies together.
    """

    photos: int = MAX_BATCH
    photo_bytes: int = 32 * 2**20
    request_bytes: int = 128 * 2**20
    pixels: int = 50_000_000
    seconds: float = 30.0
    waiting: int = 4 * MAX_BATCH
    held_bytes: int = 512 * 2**20
