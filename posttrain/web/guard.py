"""What stands before the page: who may ask at all, from where, and how much at once."""

from __future__ import annotations

import ipaddress
import secrets
from collections.abc import Mapping
from http.cookies import CookieError, SimpleCookie
from typing import Any
from urllib.parse import parse_qs, urlsplit

BODY_LIMIT = 1 << 20  # bytes
HEADERS = {
    "content-security-policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src data:; base-uri 'none';"
        " form-action 'none'; frame-ancestors 'none'"
    ),
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "cache-control": "no-store",
}


class Guard:
    """An ASGI application in front of another one. What it lets through

    - names in Host this machine by `localhost`, by an address, or by `host`: a name that an attacker's DNS turned to
      this address is none of these;
    - has the token, in the address of the page (which then sets a cookie) or in the cookie;
    - changes something only with POST, as JSON, from a page of this very server: a page on another port of the same
      machine is the same site to a cookie, but not the same origin;
    - has at most a megabyte of body.
    """

    def __init__(self, app: Any, *, token: str, host: str, port: int) -> None:
        self._app, self._token, self._host = app, token, host.lower()
        self.cookie = f"posttrain_label_{port}"  # cookies do not know ports

    async def __call__(self, scope: Mapping[str, Any], receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            return  # no websockets, and nothing to start or stop
        headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}
        query = parse_qs(scope["query_string"].decode("latin-1"))
        given = query.get("token", [""])[0] if scope["path"] == "/" else ""
        enters = bool(given) and self._is_token(given)
        problem = self._problem(scope["method"], headers, enters)
        if problem is not None:
            await _refuse(send, *problem)
            return
        cookie = f"{self.cookie}={self._token}; Path=/; HttpOnly; SameSite=Strict" if enters else None
        await self._app(scope, _limited(receive), _with_headers(send, cookie))

    def _problem(self, method: str, headers: Mapping[str, str], enters: bool) -> tuple[int, str] | None:
        host = headers.get("host", "")
        if not self._is_here(host):
            return 421, "This server does not go by that name. Open the address that the terminal shows."
        if not enters and not self._is_token(_cookie(headers.get("cookie", ""), self.cookie)):
            return 401, "Open the address that the terminal shows, with its token; a new start has a new one."
        if method == "GET":
            return None
        if method != "POST":
            return 405, "Only GET and POST are answered."
        if urlsplit(headers.get("origin", "")).netloc.lower() != host.lower():
            return 403, "Judgements are taken from this server's own page only."
        if headers.get("content-type", "").split(";")[0].strip().lower() != "application/json":
            return 415, "The body must be application/json."
        length = headers.get("content-length", "")
        if not length.isdecimal():
            return 411, "The length of the body must be said."
        if int(length) > BODY_LIMIT:
            return 413, f"A body has at most {BODY_LIMIT:,} bytes."
        return None

    def _is_here(self, host: str) -> bool:
        try:
            name = (urlsplit(f"//{host}").hostname or "").lower()
        except ValueError:
            return False
        return name in ("localhost", self._host) or _is_address(name)

    def _is_token(self, given: str) -> bool:
        return secrets.compare_digest(given.encode("utf-8", "replace"), self._token.encode())


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def is_loopback(host: str) -> bool:
    """Whether nobody but this machine can reach the address."""
    return host == "localhost" or (_is_address(host) and ipaddress.ip_address(host).is_loopback)


def _cookie(header: str, name: str) -> str:
    try:
        found = SimpleCookie(header).get(name)
    except CookieError:
        return ""
    return found.value if found else ""


def _limited(receive: Any) -> Any:
    """Reads on until the body is over or longer than it may be; what is too long is cut off and then no JSON."""
    read = 0

    async def limited() -> Any:
        nonlocal read
        message = await receive()
        if message["type"] == "http.request":
            read += len(message.get("body", b""))
            if read > BODY_LIMIT:
                return {"type": "http.request", "body": b"", "more_body": False}
        return message

    return limited


def _with_headers(send: Any, cookie: str | None) -> Any:
    async def sent(message: Any) -> None:
        if message["type"] == "http.response.start":
            own = [(name, value) for name, value in message["headers"] if name.lower() not in _NAMES]
            added = [(name.encode(), value.encode()) for name, value in HEADERS.items()]
            if cookie is not None:
                added.append((b"set-cookie", cookie.encode()))
            message = {**message, "headers": [*own, *added]}
        await send(message)

    return sent


_NAMES = {name.encode() for name in HEADERS}


async def _refuse(send: Any, status: int, reason: str) -> None:
    body = reason.encode()
    headers = [(b"content-type", b"text/plain; charset=utf-8"), (b"content-length", str(len(body)).encode())]
    guarded = _with_headers(send, None)
    await guarded({"type": "http.response.start", "status": status, "headers": headers})
    await guarded({"type": "http.response.body", "body": body})
