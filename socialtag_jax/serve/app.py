"""The tagging server's page and API: what is asked, and what is answered."""

import contextlib
from collections.abc import AsyncIterator, Iterable, Mapping
from typing import Annotated, Any, Literal

from fastapi import FastAPI, Query, Request, Response
from fastapi.concurrency import run_in_threadpool
from prometheus_client import generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from pydantic import BaseModel, ConfigDict, Field

from socialtag_jax.presentation import hashtag
from socialtag_jax.serve.feedback import FeedbackFile
from socialtag_jax.serve.limits import Limits
from socialtag_jax.serve.monitoring import Measured
from socialtag_jax.serve.tagging import TaggedPhoto, TaggingService
from socialtag_jax.serve.uploads import FIELD
from socialtag_jax.tagger import PARAMS, Tagger
from socialtag_jax.web.application import ApiError, ErrorBody, ErrorDetail, add_page, application

TAGS_PATH = "/v1/tags"
_MOST_TAGS = 1000
"""That a request may ask for, of a photo: an answer of all 12,000 tags of 32 photos takes seconds to write."""
_DESCRIPTION = """
Suggests tags for photos. Every answer with a status of 400 or more has one shape, `{"error": {"code", "message"}}`.

A request with one photo that cannot be read is refused: 415 (no image, or of a kind that is not read), 413 (too many
pixels) or 422 (damaged). With several photos the answer is 200, and each photo has its `tags` or its own `error`.
"""
_BODY: dict[str, Any] = {
    "required": True,
    "content": {
        "multipart/form-data": {
            "schema": {
                "type": "object",
                "properties": {
                    FIELD: {"type": "array", "minItems": 1, "items": {"type": "string", "format": "binary"}}
                },
                "required": [FIELD],
                "additionalProperties": False,
            }
        },
        "image/*": {"schema": {"type": "string", "format": "binary"}},
        "application/octet-stream": {"schema": {"type": "string", "format": "binary"}},
    },
}
_SHA256 = "^[0-9a-f]{64}$"
_OVERLOADED: dict[str, Any] = {
    "model": ErrorBody,
    "description": "More to do than can be done now",
    "headers": {"Retry-After": {"description": "seconds to wait", "schema": {"type": "integer"}}},
}


class SuggestedTagBody(BaseModel):
    """One suggestion."""

    tag: str = Field(description="the tag's id: normalised and case-folded")
    display: str = Field(description="the tag as people write it")
    hashtag: str = Field(description="such as `#NewYork`; empty where the tag has nothing that a hashtag may have")
    confidence: float = Field(description="the model's probability", ge=0, le=1)


class PhotoBody(BaseModel):
    """What becomes of a photo: tags, or an error."""

    name: str | None = Field(default=None, description="the file's name, as it was sent")
    sha256: str = Field(description="of the photo's bytes, in hexadecimal")
    tags: list[SuggestedTagBody] | None = Field(default=None, description="most confident first")
    error: ErrorDetail | None = None


class TagsBody(BaseModel):
    """The photos, in the order in which they were sent."""

    model: str = Field(description="SHA-256 of the model's parameters, in hexadecimal")
    threshold: float
    max_tags: int
    photos: list[PhotoBody]


class LimitsBody(BaseModel):
    """What is refused beyond."""

    photos: int
    photo_bytes: int
    request_bytes: int
    pixels: int
    seconds: float


class ModelBody(BaseModel):
    """The model that answers."""

    name: str
    sha256: str = Field(description="of its parameters, in hexadecimal")
    vocabulary_sha256: str
    n_tags: int
    input_size: int = Field(description="of the network, in pixels")
    threshold: float = Field(description="only tags with a confidence over it, unless a request says otherwise")
    max_tags: int = Field(description="at most so many tags a photo, unless a request says otherwise")
    limits: LimitsBody
    feedback: str = Field(description="name of the file that choices are appended to")


class Choice(BaseModel):
    """What a person thinks of a suggestion; of a photo's choices about a tag, the last one counts."""

    model_config = ConfigDict(extra="forbid")

    model: str = Field(description="that suggested the tag, as `/v1/tags` names it", pattern=_SHA256)
    photo: str = Field(description="SHA-256 of the photo's bytes", pattern=_SHA256)
    name: str | None = Field(default=None, description="of the photo's file", max_length=255)
    tag: str = Field(description="the tag's id", max_length=1000)
    confidence: float = Field(description="with which it was suggested", ge=0, le=1)
    choice: Literal["accepted", "rejected", "undecided"]


class Choices(BaseModel):
    """Some of them."""

    model_config = ConfigDict(extra="forbid")

    choices: list[Choice] = Field(min_length=1, max_length=1000)


class SavedBody(BaseModel):
    """How many lines are on disk."""

    saved: int


class HealthBody(BaseModel):
    """The server's state."""

    status: Literal["ok"]


def tagging_app(tagger: Tagger, limits: Limits, feedback: FeedbackFile, *, hosts: Iterable[str] = ()) -> FastAPI:
    """The application.

    Args:
      tagger: the model; the first requests wait until it is compiled, unless `tagging.warm_up` has done that.
      limits: on what requests may ask.
      feedback: takes people's choices.
      hosts: names by which browsers may call it; see `web.application`.
    """
    service = TaggingService(tagger, limits)

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        async with service.running():
            yield

    app = application(
        "socialtag serve",
        description=_DESCRIPTION,
        hosts=hosts,
        large_bodies={TAGS_PATH: limits.request_bytes},
        body_seconds=limits.seconds,
        lifespan=lifespan,
    )
    app.add_middleware(Measured, metrics=service.metrics)
    add_page(app, "/", "tagger.html")
    _add_tags(app, service)
    _add_feedback(app, service, feedback)
    _add_state(app, service, feedback)
    return app


def _add_tags(app: FastAPI, service: TaggingService) -> None:
    tagger = service.tagger
    vocabulary, sha256 = tagger.vocabulary, tagger.description["files"][PARAMS]
    most = min(len(vocabulary), _MOST_TAGS)
    hashtags = {tag: hashtag(display) for tag, display in zip(vocabulary.tags, vocabulary.displays, strict=True)}

    @app.post(
        TAGS_PATH,
        response_model=TagsBody,
        response_model_exclude_none=True,
        openapi_extra={"requestBody": _BODY},
        responses={503: _OVERLOADED},
    )
    async def tags(
        request: Request,
        threshold: Annotated[float | None, Query(ge=0, lt=1, description="only tags with a confidence over it")] = None,
        max_tags: Annotated[int | None, Query(ge=1, le=most, description="at most so many a photo")] = None,
    ) -> TagsBody:
        """Suggests tags for one photo or several."""
        over = tagger.threshold if threshold is None else threshold
        at_most = min(tagger.max_tags, _MOST_TAGS) if max_tags is None else max_tags
        photos = await service.answer(request, over, at_most)
        if len(photos) == 1 and photos[0].error is not None:
            raise photos[0].error
        return TagsBody(
            model=sha256,
            threshold=over,
            max_tags=at_most,
            photos=[_photo_body(photo, hashtags) for photo in photos],
        )


def _photo_body(photo: TaggedPhoto, hashtags: Mapping[str, str]) -> PhotoBody:
    if photo.error is not None:
        error = ErrorDetail(code=photo.error.code, message=str(photo.error.detail))
        return PhotoBody(name=photo.name, sha256=photo.sha256, error=error)
    tags = [
        SuggestedTagBody(
            tag=one.tag, display=one.display, hashtag=hashtags[one.tag], confidence=round(one.confidence, 6)
        )
        for one in photo.tags
    ]
    return PhotoBody(name=photo.name, sha256=photo.sha256, tags=tags)


def _add_feedback(app: FastAPI, service: TaggingService, feedback: FeedbackFile) -> None:
    known = frozenset(service.tagger.vocabulary.tags)
    model = service.tagger.description["files"][PARAMS]

    @app.post("/v1/feedback", responses={409: {"model": ErrorBody, "description": "Of another model"}})
    async def save(choices: Choices) -> SavedBody:
        """Appends people's choices to the feedback file; they are on disk when the answer comes."""
        for one in choices.choices:
            if one.model != model:
                raise ApiError(409, "other_model", "the tag was suggested by another model than the one that is served")
            if one.tag not in known:
                raise ApiError(409, "unknown_tag", f"not a tag of the model that is served: {one.tag[:80]!r}")
        lines = [one.model_dump() for one in choices.choices]
        try:
            await run_in_threadpool(feedback.append, lines)
        except OSError as error:
            what = f"the feedback file cannot be written: {error.strerror or error}"
            raise ApiError(507, "feedback_not_saved", what) from error
        for one in choices.choices:
            service.metrics.feedback.labels(one.choice).inc()
        return SavedBody(saved=len(lines))


def _add_state(app: FastAPI, service: TaggingService, feedback: FeedbackFile) -> None:
    tagger, limits = service.tagger, service.limits
    about = ModelBody(
        name=tagger.description["name"],
        sha256=tagger.description["files"][PARAMS],
        vocabulary_sha256=tagger.vocabulary.sha256,
        n_tags=len(tagger.vocabulary),
        input_size=tagger.input_size,
        threshold=tagger.threshold,
        max_tags=min(tagger.max_tags, _MOST_TAGS),
        limits=LimitsBody(
            photos=limits.photos,
            photo_bytes=limits.photo_bytes,
            request_bytes=limits.request_bytes,
            pixels=limits.pixels,
            seconds=limits.seconds,
        ),
        feedback=feedback.path.name,
    )

    @app.get("/v1/model")
    async def model() -> ModelBody:
        """The model, its defaults, and the server's limits."""
        return about

    @app.get("/healthz")
    async def health() -> HealthBody:
        """200 while photos can be tagged."""
        if not service.alive:
            raise ApiError(503, "not_tagging", "the model does not answer: if that lasts, start the server again")
        return HealthBody(status="ok")

    @app.get("/metrics", response_class=Response, responses={200: {"content": {"text/plain": {}}}})
    async def metrics() -> Response:
        """Figures for Prometheus."""
        return Response(generate_latest(service.metrics.registry), media_type=CONTENT_TYPE_LATEST)
