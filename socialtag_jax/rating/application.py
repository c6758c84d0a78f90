"""The page on which people rate, and its API: blind, so nothing that leaves here says where a tag comes from."""

import functools
import sqlite3
from typing import Annotated

from fastapi import APIRouter, Depends, FastAPI, Path, Request, Response
from fastapi.responses import JSONResponse
from pydantic import BaseModel, Field

from socialtag_jax.errors import UserError
from socialtag_jax.rating.study import Answer, ConflictError, NotFoundError, Rater, State, Study, TakenError
from socialtag_jax.shards.dataset import ParsedRecords
from socialtag_jax.web.application import ApiError, add_page, application, error_answer

_DESCRIPTION = "Raters mark which tags fit a photo. Answers are stored as they are given."
_MOST_TAGS = 10_000
_LARGEST = 2**63 - 1
_Number = Annotated[int, Field(ge=0, le=_LARGEST)]
_InPath = Annotated[int, Path(ge=0, le=_LARGEST)]


class Name(BaseModel):
    """Who wants to rate."""

    name: str = Field(max_length=1000)


class RaterBody(BaseModel):
    """A rater, and how many photos they have finished."""

    id: int
    name: str
    finished: int


class StudyBody(BaseModel):
    """The study, as far as raters may know it."""

    key: str = Field(description="tells it from other studies, in addresses")
    photos: int
    raters: list[RaterBody]


class AnswerBody(BaseModel):
    """All that a rater says of a photo, and the answer that they saw when they said it."""

    fitting: list[_Number] = Field(max_length=_MOST_TAGS, description="places of the tags that fit, ascending")
    none_fits: bool
    finished: bool
    after: _Number = Field(description="answer_id that this one was made from")


class UndoBody(BaseModel):
    """What to take back."""

    last: _Number = Field(description="last_id")


class StateBody(BaseModel):
    """A photo, its tags, and where the rater stands."""

    rater: str
    position: int
    photos: int
    tags: list[str]
    fitting: list[int]
    none_fits: bool
    finished: bool
    answer_id: int = Field(description="of the answer to this photo; 0 without any")
    last_id: int = Field(description="of the rater's newest answer to any photo; 0 without any")
    finished_photos: int
    next_position: int | None = Field(description="the first photo that is not finished; null after the last")


def rating_application(study: Study, records: ParsedRecords, *, hosts: list[str]) -> FastAPI:
    """The page and its API.

    Args:
      study: open.
      records: of the split that it is about.
      hosts: names by which browsers may call it.
    """
    app = application("socialtag rate", description=_DESCRIPTION, hosts=hosts)
    add_page(app, "/", "rate_start.html")
    add_page(app, "/studies/{study}/raters/{rater}", "rate.html")

    def same_study(key: str) -> None:
        # A page that was left open asks on, and the next study may be served at the same address.
        if key != study.key:
            raise ApiError(404, "other_study", "Another study is served at this address now: go to its first page.")

    of_study = APIRouter(prefix="/api/studies/{key}", dependencies=[Depends(same_study)])

    def body(state: State) -> StateBody:
        answer = state.answer
        return StateBody(
            rater=state.rater,
            position=state.position,
            photos=study.photos,
            tags=[tag.display for tag in study.photo(state.position).tags],
            fitting=list(answer.fitting),
            none_fits=answer.none_fits,
            finished=answer.finished,
            answer_id=state.answer_id,
            last_id=state.last_id,
            finished_photos=state.finished,
            next_position=state.next_position,
        )

    @app.get("/api/study")
    def get_study() -> StudyBody:
        """How many photos there are, and who rates."""
        return StudyBody(key=study.key, photos=study.photos, raters=[_rater(one) for one in study.raters()])

    @of_study.post("/raters")
    def join(name: Name) -> RaterBody:
        """A new rater."""
        try:
            return _rater(study.join(name.name))
        except ValueError as error:
            raise ApiError(422, "invalid_name", str(error)) from error

    @of_study.get("/raters/{rater}")
    def get_next(rater: _InPath) -> StateBody:
        """The first photo that the rater has not finished, or the last of all."""
        return body(study.state(rater))

    @of_study.get("/raters/{rater}/photos/{position}")
    def get_photo(rater: _InPath, position: _InPath) -> StateBody:
        """A photo, and what the rater has said of it."""
        return body(study.state(rater, position))

    @of_study.put("/raters/{rater}/photos/{position}")
    def put_answer(rater: _InPath, position: _InPath, given: AnswerBody) -> StateBody:
        """Stores what a rater says of a photo."""
        answer = Answer(tuple(given.fitting), given.none_fits, given.finished)
        try:
            return body(study.answer(rater, position, answer, after=given.after))
        except ValueError as error:
            raise ApiError(422, "invalid_answer", str(error)) from error

    @of_study.post("/raters/{rater}/undo")
    def undo(rater: _InPath, given: UndoBody) -> StateBody:
        """Takes back the rater's newest answer."""
        return body(study.undo(rater, last=given.last))

    # A photo's path in the data set may hold its tags.
    @of_study.get("/photos/{position}", response_class=Response)
    def get_image(position: _InPath) -> Response:
        """The photo itself."""
        image = records[study.photo(position).record].image
        return Response(image, media_type="image/png" if image.startswith(b"\x89PNG") else "image/jpeg")

    app.include_router(of_study)
    for kind, status, code in (
        (NotFoundError, 404, "not_found"),
        (ConflictError, 409, "changed_meanwhile"),
        (TakenError, 409, "name_taken"),
        # Of the study or the data set.
        (UserError, 500, "damaged"),
        (sqlite3.Error, 503, "not_stored"),
    ):
        app.add_exception_handler(kind, functools.partial(_refusal, status, code))
    return app


def _rater(rater: Rater) -> RaterBody:
    return RaterBody(id=rater.id, name=rater.name, finished=rater.finished)


def _refusal(status: int, code: str, _: Request, error: Exception) -> JSONResponse:
    return error_answer(status, code, str(error))
