"""The labelling page on a port of this machine, until Ctrl-C."""

from __future__ import annotations

import secrets
import socket
from collections.abc import Callable
from urllib.parse import quote

from posttrain.errors import ConfigError
from posttrain.web.export import Exported
from posttrain.web.labelling import Labelling


def check_extra() -> None:
    """Raises ConfigError where the extra `label` is not installed."""
    try:
        import fastapi  # noqa: F401
        import uvicorn  # noqa: F401
    except ImportError as error:
        raise ConfigError(
            f"the labelling page needs {error.name}, which is not installed: pip install 'posttrain[label]'"
        ) from None


def listen(host: str, port: int) -> socket.socket:
    """A socket on the port, any free one for 0. Raises ConfigError where it cannot be had."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listening = socket.socket(family, kind, protocol)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(address)
    except OSError as error:
        raise ConfigError(
            f"cannot listen on {host} port {port}: {error.strerror or error}; name another --port, or 0 for a free one"
        ) from None
    return listening


def serve(
    labelling: Labelling,
    listening: socket.socket,
    *,
    host: str,
    annotator: str = "",
    export: Callable[[], Exported],
    ready: Callable[[str], None],
) -> None:
    """Answers until Ctrl-C. `ready` is told the page's address, whose token is drawn anew each time."""
    import uvicorn

    from posttrain.web.application import application

    port = listening.getsockname()[1]
    token = secrets.token_urlsafe(24)
    app = application(labelling, token=token, host=host, port=port, annotator=annotator, export=export)
    server = uvicorn.Server(
        uvicorn.Config(
            app, log_level="warning", access_log=False, lifespan="off", ws="none", proxy_headers=False,
            server_header=False, timeout_graceful_shutdown=2,
        )
    )  # fmt: skip
    shown = f"[{host}]" if ":" in host else host
    ready(f"http://{shown}:{port}/?token={quote(token)}")
    try:
        server.run(sockets=[listening])
    except KeyboardInterrupt:  # uvicorn raises it again when it has stopped
        pass
    finally:
        listening.close()
