"""A small HTTP server that behaves as OpenAI-compatible ones do, and fails when told to."""

from __future__ import annotations

import json
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self

Failure = Callable[["Handler"], None]


@dataclass
class ChatServer:
    """Answers `text(prompt, seed)` for each choice; takes the next of `failures` instead while there are any."""

    served: tuple[str, ...] = ("tiny",)
    owned_by: str = "tests"
    key: str | None = None
    takes_n: bool = True
    takes_max_tokens: bool = True  # else it wants max_completion_tokens
    tells_ids: bool = False
    delay_s: float = 0.0
    piece_s: float = 0.0  # between the words of a stream
    failures: deque[Failure] = field(default_factory=deque)
    refuse: Callable[[dict[str, Any]], str | None] = lambda body: None  # words for a 400
    text: Callable[[str, int], str] = lambda prompt, seed: f"{prompt} -> {seed}"

    def __post_init__(self) -> None:
        self.bodies: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.paths: list[str] = []
        self.times: list[float] = []
        self.lock = threading.Lock()
        self.active = self.most_active = 0

    def __enter__(self) -> Self:
        outer = self

        class Bound(Handler):
            server_of_tests = outer

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Bound)
        self.http.daemon_threads = True
        self.thread = threading.Thread(target=self.http.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        self.thread.start()
        self.url = f"http://127.0.0.1:{self.http.server_port}/v1"
        return self

    def __exit__(self, *_: object) -> None:
        self.http.shutdown()
        self.http.server_close()


class Handler(BaseHTTPRequestHandler):
    """One connection."""

    protocol_version = "HTTP/1.1"
    server_of_tests: ChatServer

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        here = self.server_of_tests
        if self.path.partition("?")[0] != "/v1/models":
            self.reply(404, {"error": {"message": "no such route"}})
            return
        self.reply(200, {"data": [{"id": name, "owned_by": here.owned_by} for name in here.served]})

    def do_POST(self) -> None:
        here = self.server_of_tests
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with here.lock:
            here.bodies.append(body)
            here.headers.append({name.lower(): value for name, value in self.headers.items()})
            here.paths.append(self.path)
            here.times.append(time.monotonic())
            here.active += 1
            here.most_active = max(here.most_active, here.active)
            failure = here.failures.popleft() if here.failures else None
        try:
            if here.delay_s:
                time.sleep(here.delay_s)
            if failure is not None:
                failure(self)
            else:
                self.answer(body)
        except (BrokenPipeError, ConnectionResetError):
            self.close_connection = True
        finally:
            with here.lock:
                here.active -= 1

    def answer(self, body: dict[str, Any]) -> None:
        here = self.server_of_tests
        if here.key is not None and self.headers.get("Authorization") != f"Bearer {here.key}":
            sent = self.headers.get("Authorization")
            self.reply(401, {"error": {"message": f"Incorrect API key provided: {sent}", "code": "invalid_api_key"}})
            return
        if body["model"] not in here.served:
            self.reply(404, {"error": {"message": f"The model `{body['model']}` does not exist."}})
            return
        if not here.takes_max_tokens and "max_tokens" in body:
            words = "Unsupported parameter: 'max_tokens'. Use 'max_completion_tokens' instead."
            self.reply(400, {"error": {"message": words}})
            return
        if not here.takes_n and body.get("n", 1) > 1:
            self.reply(400, {"detail": "only one choice at a time"})
            return
        if words := here.refuse(body):
            self.reply(400, {"error": {"message": words}})
            return
        chat = "messages" in body
        prompt = body["messages"][-1]["content"] if chat else f"{len(body['prompt'])} tokens"
        if body.get("stream"):
            self.stream(here.text(prompt, body.get("seed", 0)), chat)
            return
        choices = []
        for number in range(body.get("n", 1)):
            text = here.text(prompt, body.get("seed", 0) + number)
            ids = [ord(letter) for letter in text]
            choice: dict[str, Any] = {"index": number, "finish_reason": "stop"}
            choice |= {"message": {"role": "assistant", "content": text}} if chat else {"text": text}
            if here.tells_ids and body.get("return_token_ids"):
                choice["token_ids"] = ids
                values = [-0.5] * len(ids)
                choice["logprobs"] = (
                    {"content": [{"logprob": value} for value in values]} if chat else {"token_logprobs": values}
                )
            choices.append(choice)
        total = sum(len(c["message"]["content"] if chat else c["text"]) for c in choices)
        usage = {"prompt_tokens": 5, "completion_tokens": total, "total_tokens": 5 + total}
        # the order of choices is not promised, their index is
        self.reply(200, {"choices": choices[::-1], "usage": usage})

    def stream(self, text: str, chat: bool) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Connection", "close")
        self.end_headers()
        self.close_connection = True
        words = [f"{word} " for word in text.split(" ")]
        words[-1] = words[-1][:-1]
        for word in words:
            choice = {"delta": {"content": word}} if chat else {"text": word}
            self.wfile.write(f": a comment\n\ndata: {json.dumps({'choices': [choice]})}\n\n".encode())
            self.wfile.flush()
            time.sleep(self.server_of_tests.piece_s)
        self.wfile.write(b"data: [DONE]\n\n")

    def reply(self, status: int, body: Any, headers: dict[str, str] | None = None) -> None:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


def status(code: int, words: str = "not now", **headers: str) -> Failure:
    """Answers with this status; `retry_after="2"` becomes a header."""
    named = {name.replace("_", "-").title(): value for name, value in headers.items()}
    return lambda handler: handler.reply(code, {"error": {"message": words}}, named)


def garbage(handler: Handler) -> None:
    """Answers 200 with what is no JSON."""
    handler.reply(200, b"<html>oops")


def hang_up(handler: Handler) -> None:
    """Closes the connection without a word."""
    handler.close_connection = True
    handler.connection.close()


def slow(seconds: float) -> Failure:
    """Answers after so long."""
    return lambda handler: (time.sleep(seconds), handler.reply(200, {"choices": []}))[1]


def trickle(seconds: float) -> Failure:
    """Begins to answer, and goes on with white space for so long, as some proxies do."""

    def send(handler: Handler) -> None:
        handler.send_response(200)
        handler.send_header("Content-Length", "1000000")
        handler.end_headers()
        for _ in range(round(seconds / 0.05)):
            handler.wfile.write(b" ")
            handler.wfile.flush()
            time.sleep(0.05)

    return send
