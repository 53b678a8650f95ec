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
from pages.components.context import workspace

CACHE = {"Cache-Control": "private, max-age=86400"}  # the address carries a version, so a day is not too long
HEADERS = {"X-Content-Type-Options": "nosniff", "Referrer-Policy": "same-origin", "X-Frame-Options": "DENY"}


def sound(request: Request) -> Response:
    """One channel of a clip as WAV; answers range requests, so that players can seek."""
    wanted = request.path_params
    if wanted["channel"] not in api.CHANNELS:
        raise HTTPException(404)
    try:
        path = api.sound(workspace(), wanted["data"], wanted["clip_id"], wanted["channel"])
    except (api.AsdError, OSError) as error:
        raise HTTPException(404) from error
    return FileResponse(path, media_type="audio/wav", headers=CACHE)


def spectrogram(request: Request) -> Response:
    wanted = request.path_params
    if wanted["kind"] not in (*pictures.KINDS, "thumbnail"):
        raise HTTPException(404)
    try:
        path = pictures.picture(workspace(), wanted["data"], wanted["kind"], wanted["clip_id"])
    except (api.AsdError, OSError) as error:
        raise HTTPException(404) from error
    return FileResponse(path, media_type="image/webp", headers=CACHE)


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
    Route("/asd/sounds/{data}/{channel}/{clip_id:path}", sound),
    Route("/asd/spectrograms/{data}/{kind}/{clip_id:path}", spectrogram),
]
middleware = [
    Middleware(TrustedHostMiddleware, allowed_hosts=["localhost", "127.0.0.1"]),
    Middleware(SecurityHeaders),
]
