"""The page and what it asks for, as a web application."""

from __future__ import annotations

import json
from collections.abc import Callable
from importlib.resources import files
from typing import Annotated, Any, Literal

from fastapi import FastAPI, Query, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import Response
from pydantic import BaseModel, ConfigDict, Field

from posttrain.errors import PosttrainError
from posttrain.web.export import Exported
from posttrain.web.guard import Guard
from posttrain.web.labelling import LONGEST_EDIT, Labelling, StaleError, annotator_name
from posttrain.web.summary import agreement

_FILES = {
    "/": ("label.html", "text/html; charset=utf-8"),
    "/label.css": ("label.css", "text/css; charset=utf-8"),
    "/label.js": ("label.js", "text/javascript; charset=utf-8"),
}


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)
    annotator: str = Field(max_length=200)


class _Judgement(_Body):
    question: str = Field(max_length=64)
    verdict: Literal["prefer", "edit", "tie", "skip"]
    position: int | None = None
    text: str | None = Field(default=None, max_length=2 * LONGEST_EDIT)
    seconds: float | None = Field(default=None, ge=0, le=1e6)


class _Undo(_Body):
    done: int


class Json(Response):
    """Plain values as ASCII, so that any text can be sent."""

    media_type = "application/json"

    def render(self, content: Any) -> bytes:
        return json.dumps(content).encode()


def application(
    labelling: Labelling, *, token: str, host: str, port: int, annotator: str = "", export: Callable[[], Exported]
) -> Guard:
    """The guarded application. Its handlers run one after the other, so judgements never cross.

    `annotator` is who judges where the page's address names nobody; `export` writes the preference rows.
    """
    app = FastAPI(openapi_url=None, docs_url=None, redoc_url=None)
    pages = {path: (files("posttrain.web").joinpath(name).read_bytes(), kind) for path, (name, kind) in _FILES.items()}

    def view(name: str) -> dict[str, Any]:
        shown = labelling.view(name)
        if shown["question"] is None:
            ids = {question.id for question in labelling.questions}
            found = agreement(one for one in labelling.journal if one.question in ids)
            shown["agreement"] = found.text() if found else None
        return shown

    @app.get("/")
    @app.get("/label.css")
    @app.get("/label.js")
    async def page(request: Request) -> Response:
        content, kind = pages[request.url.path]
        return Response(content, media_type=kind)

    @app.get("/api/next")
    async def following(given: Annotated[str, Query(alias="annotator", max_length=200)] = "") -> Response:
        if not given and not annotator:
            return Json({"annotator": None})
        return Json(view(annotator_name(given or annotator)))

    @app.post("/api/judge")
    async def judge(body: _Judgement) -> Response:
        name = annotator_name(body.annotator)
        labelling.judge(
            name, body.question, body.verdict, position=body.position, text=body.text, seconds=body.seconds
        )  # fmt: skip
        return Json(view(name))

    @app.post("/api/undo")
    async def undo(body: _Undo) -> Response:
        name = annotator_name(body.annotator)
        undone = labelling.undo(name, body.done)
        return Json({**view(name), "undone": None if undone is None else undone.verdict})

    @app.post("/api/again")
    async def again(body: _Body) -> Response:
        name = annotator_name(body.annotator)
        labelling.again(name)
        return Json(view(name))

    @app.post("/api/export")
    async def written(body: _Body) -> Response:
        return Json({"said": export().text()})

    @app.exception_handler(PosttrainError)
    async def refused(request: Request, error: Exception) -> Response:
        return Json({"error": str(error)}, status_code=409 if isinstance(error, StaleError) else 400)

    @app.exception_handler(OSError)
    async def unwritten(request: Request, error: Exception) -> Response:
        return Json({"error": f"it could not be written: {error}"}, status_code=500)

    @app.exception_handler(RequestValidationError)
    async def malformed(request: Request, error: Exception) -> Response:
        return Json({"error": "this is no request of the page"}, status_code=422)

    return Guard(app, token=token, host=host, port=port)
