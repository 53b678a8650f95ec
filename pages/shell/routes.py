"""Sounds and pictures over HTTP, by id. Read-only; an id is looked up and never becomes part of a path."""

from __future__ import annotations

from starlette.datastructures import MutableHeaders
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import FileResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from asd_core import api
from pages.components import pictures
from pages.components.context import PAGES, workspace

CACHE = {"Cache-Control": "private, max-age=86400"}  # the address carries a version, so a day is not too long
ASSETS = dict.fromkeys(("player.js", "player_audio.js"), "text/javascript") | {"player.css": "text/css"}
HEADERS = {"X-Content-Type-Options": "nosniff", "Referrer-Policy": "same-origin", "X-Frame-Options": "DENY"}


@api.moment()
def sound(request: Request) -> Response:
    """One channel of a clip, or both, as WAV; answers range requests, so that players can seek."""
    wanted = request.path_params
    if wanted["channel"] not in (*api.CHANNELS, api.BOTH):
        raise HTTPException(404)
    try:
        path = api.sound(workspace(), wanted["data"], wanted["clip_id"], wanted["channel"])
    except (api.AsdError, OSError) as error:
        raise HTTPException(404) from error
    return FileResponse(path, media_type="audio/wav", headers=CACHE)


@api.moment()
def spectrogram(request: Request) -> Response:
    wanted = request.path_params
    if wanted["kind"] not in pictures.KINDS:
        raise HTTPException(404)
    try:
        path = pictures.picture(workspace(), wanted["data"], wanted["kind"], wanted["clip_id"])
    except (api.AsdError, OSError) as error:
        raise HTTPException(404) from error
    return FileResponse(path, media_type="image/webp", headers=CACHE)


@api.moment()
def thumbnail(request: Request) -> Response:
    """The small picture of a clip in tables, by its short id."""
    data, short = request.path_params["data"], request.path_params["short"]
    try:
        clip_id = api.clip_of_short_id(workspace(), data, short).clip_id
        path = pictures.picture(workspace(), data, "thumbnail", clip_id)
    except (api.AsdError, OSError) as error:
        raise HTTPException(404) from error
    return FileResponse(path, media_type="image/webp", headers=CACHE)


@api.moment()
def difference(request: Request) -> Response:
    """A clip's spectrogram less the mean of others' (`other`, repeated) of the same or another data set (`of`)."""
    wanted, asked = request.path_params, request.query_params
    if wanted["kind"] not in pictures.KINDS:
        raise HTTPException(404)
    data, clip_id, others = wanted["data"], wanted["clip_id"], asked.getlist("other")
    try:
        path = pictures.difference(workspace(), data, wanted["kind"], clip_id, others, asked.get("of", data))
    except (api.AsdError, OSError) as error:
        raise HTTPException(404) from error
    return FileResponse(path, media_type="image/webp", headers=CACHE)


@api.moment()
def anomaly(request: Request) -> Response:
    """What a run's map marks in a clip, as WAV."""
    wanted = request.path_params
    try:
        run = api.load_run(workspace(), wanted["run"])
        path = api.anomaly_sound(workspace(), run, wanted["clip_id"], request.query_params.get("branch"))
    except (api.AsdError, OSError) as error:
        raise HTTPException(404) from error
    return FileResponse(path, media_type="audio/wav", headers=CACHE)


def asset(request: Request) -> Response:
    """A script or style sheet of ours; asked for again with every visit, and sent only if it has changed."""
    name = request.path_params["name"]
    if name not in ASSETS:
        raise HTTPException(404)
    path = PAGES.parent / "assets" / name
    headers = {"Cache-Control": "no-cache"}
    tag = f'"{path.stat().st_mtime_ns:x}"'
    if request.headers.get("if-none-match") == tag:
        return Response(status_code=304, headers=headers | {"ETag": tag})
    return FileResponse(path, media_type=ASSETS[name], headers=headers | {"ETag": tag})


class SecurityHeaders:
    """Adds the headers that every answer should carry."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        await self.app(scope, receive, with_headers if scope["type"] == "http" else send)


routes = [
    Route("/asd/assets/{name}", asset),
    Route("/asd/sounds/{data}/{channel}/{clip_id:path}", sound),
    Route("/asd/spectrograms/{data}/{kind}/{clip_id:path}", spectrogram),
    Route("/asd/thumbnails/{data}/{short}", thumbnail),
    Route("/asd/difference/{data}/{kind}/{clip_id:path}", difference),
    Route("/asd/anomaly/{run}/{clip_id:path}", anomaly),
]
middleware = [
    Middleware(TrustedHostMiddleware, allowed_hosts=["localhost", "127.0.0.1"]),
    Middleware(SecurityHeaders),
]
