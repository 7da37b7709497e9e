"""The JSON API."""

from __future__ import annotations

import time
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Form, Header, HTTPException, Query, Request, Response, UploadFile
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field

from pipelines.search import Query as SearchQuery
from pipelines.search import Searcher
from pipelines.serve.config import ServeLimits
from pipelines.serve.facets import Facets
from pipelines.serve.serving import Serving
from pipelines.serve.thumbnails import SIZES, Key
from pipelines.serve.values import rows_of
from vista_core import UsageError

router = APIRouter()
LIMITS = ServeLimits()
FORMS = ("multipart/form-data", "application/x-www-form-urlencoded")


def without_blank(value: Any) -> Any:
    """None for a field that a form has without a value."""
    return None if value == "" else value


def number_or_tag(value: Any) -> Any:
    """A version as a number, if it is one."""
    return int(value) if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) < 19 else value


Blank = BeforeValidator(without_blank)
Version = Annotated[int | str | None, BeforeValidator(number_or_tag), Blank]


class SearchForm(BaseModel):
    """A query, as a form."""

    model_config = ConfigDict(extra="forbid")

    text: Annotated[
        str | None, Blank, Field(max_length=LIMITS.text_characters, description="The text to search with.")
    ] = None
    image: Annotated[UploadFile | None, Blank, Field(description="The image to search with, as a file.")] = None
    like: Annotated[
        str | None,
        Field(
            description="The id of a row: more rows like it or, with `text`, like its image with what the text changes."
        ),
    ] = None
    k: Annotated[int, Field(ge=1, le=LIMITS.results, description="Number of results.")] = 10
    offset: Annotated[int, Field(ge=0, le=LIMITS.depth, description="Results to skip.")] = 0
    where: Annotated[
        str | None, Blank, Field(max_length=LIMITS.where_characters, description="A SQL filter on the table's columns.")
    ] = None
    mode: Annotated[
        Literal["vector", "text", "hybrid"], Field(description="By the vector, by the words of the text, or by both.")
    ] = "vector"
    version: Annotated[Version, Field(description="A version or tag of the table; default: the published one.")] = None
    column: Annotated[str | None, Blank, Field(max_length=200, description="The vector column.")] = None
    exact: Annotated[bool, Field(description="Search without the vector index.")] = False


class SearchAnswer(BaseModel):
    """What was found, all of it in one version of the table."""

    version: Annotated[int, Field(description="The version of the table that was searched.")]
    model: Annotated[str, Field(description="The model of the vectors.")]
    column: Annotated[str, Field(description="The vector column that was searched.")]
    images: Annotated[bool, Field(description="Whether /api/image has images of this version.")]
    took_ms: Annotated[float, Field(description="Time from the arrival of the query to its results, in milliseconds.")]
    results: Annotated[list[dict[str, Any]], Field(description="id, score and the row's other columns, best first.")]


REFUSALS: dict[int | str, dict[str, Any]] = {
    400: {"description": "The query can't be answered; `detail` says why"},
    401: {"description": "The token is missing or wrong"},
    413: {"description": "The request is too long"},
    415: {"description": "The request is no form"},
    422: {"description": "A field is not valid"},
    503: {"description": "Too many requests; `Retry-After` says when to come again"},
}


def check_form(content_type: Annotated[str, Header(include_in_schema=False)] = FORMS[0]) -> None:
    """Raises HTTPException for a body of another kind, such as JSON, of which no field would be read."""
    if not content_type.lower().startswith(FORMS):
        raise HTTPException(415, f"send a form, as {' or '.join(FORMS)}, not {content_type[:100]}")


@router.post("/api/search", responses=REFUSALS, dependencies=[Depends(check_form)])
async def search(request: Request, form: Annotated[SearchForm, Form(media_type="multipart/form-data")]) -> SearchAnswer:
    """Search by text, by image, by both, or by a row; see the fields."""
    serving, started = serving_of(request), time.perf_counter()
    image = None if form.image is None else await read(form.image, serving.limits)
    searcher = await serving.versions.get(form.column, form.version)
    query = SearchQuery(
        text=form.text,
        image=image,
        like=form.like,
        k=form.k,
        offset=form.offset,
        where=form.where,
        mode=form.mode,
        exact=form.exact,
    )
    found = await serving.batcher.answer(searcher, await serving.with_image(searcher, query))
    took = time.perf_counter() - started
    serving.metrics.searches.labels(form.mode).observe(took)
    return SearchAnswer(
        version=searcher.version,
        model=searcher.model,
        column=searcher.table.vector,
        images=serving.has_images(searcher),
        took_ms=round(1000 * took, 2),
        results=rows_of(found),
    )


async def read(file: UploadFile, limits: ServeLimits) -> bytes:
    """An uploaded image. Raises UsageError if it is too large."""
    if (file.size or 0) > limits.image_bytes:
        raise UsageError(f"image: it has more than {limits.image_bytes:,} bytes")
    return await file.read()


@router.get("/api/table", responses={401: REFUSALS[401]})
async def table(request: Request) -> dict[str, Any]:
    """The table: its published version, columns, tags, and what can be searched."""
    return await serving_of(request).describe()


@router.get("/api/filters", responses={401: REFUSALS[401]})
async def filters(request: Request) -> Facets:
    """Filters that suit the columns of the published version: ranges, and values with their number of rows."""
    return await serving_of(request).filters()


def known_size(size: int) -> int:
    """The size, if thumbnails are made in it: any other would only fill the cache."""
    if size not in SIZES:
        raise ValueError(f"must be one of {SIZES}")
    return size


class ImageAsked(BaseModel):
    """Which image."""

    id: Annotated[str, Field(description="The id of the row.", max_length=10_000)]
    version: Annotated[Version, Field(description="The version of the table, as results have it.")] = None
    size: Annotated[int, AfterValidator(known_size), Field(description=f"Pixels of the longer side: {SIZES}")] = SIZES[
        0
    ]


@router.get("/api/image", responses={200: {"content": {"image/webp": {}}}, 404: {"description": "No image"}})
async def image(request: Request, asked: Annotated[ImageAsked, Query()]) -> Response:
    """The image of a row, as a thumbnail."""
    serving = serving_of(request)
    searcher: Searcher = await serving.versions.get(None, asked.version)
    key = Key(searcher.version, asked.id, asked.size)
    made = await serving.thumbnails.get(key, lambda: serving.image_of(searcher, asked.id))
    lasting = asked.version == searcher.version
    headers = {"cache-control": "private, max-age=86400, immutable" if lasting else "no-store"}
    if made is None:
        return Response(status_code=404, headers={"cache-control": "private, max-age=60" if lasting else "no-store"})
    return Response(made, media_type="image/webp", headers=headers)


@router.get("/healthz", responses={503: {"description": "It can't answer any more; start it again"}})
async def health(request: Request, response: Response) -> dict[str, str]:
    """Whether the server can answer."""
    alive = serving_of(request).is_alive()
    response.status_code = 200 if alive else 503
    return {"status": "ok" if alive else "stopped"}


@router.get("/metrics", response_class=Response, responses={200: {"content": {"text/plain": {}}}})
async def metrics(request: Request) -> Response:
    """Counters for Prometheus."""
    return Response(serving_of(request).metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")


def serving_of(request: Request) -> Serving:
    """What the server has open."""
    serving: Serving = request.app.state.serving
    return serving
