"""The server without a browser: who is let in, what is told, and that what it confirmed is on the disk."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
from label_server import served
from starlette.testclient import TestClient

from posttrain.web.application import application
from posttrain.web.export import Exported, export
from posttrain.web.guard import BODY_LIMIT, Guard
from posttrain.web.journal import Journal
from posttrain.web.labelling import Labelling
from posttrain.web.questions import read_questions

HERE = "http://127.0.0.1:8765"
ROWS = [
    {"prompt": "2 + 2?", "answers": [{"text": "4", "model": "secret-a"}, {"text": "5", "model": "secret-b"}]},
    {"prompt": [{"role": "user", "content": "Hi"}], "chosen": "secret? no: Hello!", "rejected": "Go away."},
    {"prompt": "Three?", "answers": ["3", "three", {"text": "drei", "model": "secret-a"}]},
]  # fmt: skip


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    path = tmp_path / "in.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    return path


@pytest.fixture
def outside(rows: Path, tmp_path: Path) -> Iterator[TestClient]:
    """A client that does not know the token."""
    read = read_questions([str(rows)])
    with Journal(tmp_path / "j.jsonl") as journal:

        def write() -> Exported:
            return export(tmp_path / "out.jsonl", read, journal, inputs=[str(rows)], settings={})

        app = application(
            Labelling(read.questions, journal), token="the-token", host="127.0.0.1", port=8765, export=write
        )  # fmt: skip
        yield TestClient(app, base_url=HERE)


@pytest.fixture
def client(outside: TestClient) -> TestClient:
    """A client that opened the address, and sends what the page sends."""
    assert outside.get("/?token=the-token").status_code == 200
    outside.headers["origin"] = HERE
    return outside


def judge(client: TestClient, verdict: str, position: int | None = None, **more: Any) -> Any:
    view = client.get("/api/next?annotator=ana").json()
    body = {"annotator": "ana", "question": view["question"]["id"], "verdict": verdict, "position": position, **more}
    return client.post("/api/judge", json=body)


def test_nothing_without_the_token(outside: TestClient) -> None:
    for path in ("/", "/label.js", "/api/next?annotator=ana", "/?token=", "/?token=other", "/api/next?token=the-token"):
        assert outside.get(path).status_code == 401, path
    assert outside.post("/api/export", json={"annotator": "a"}, headers={"origin": HERE}).status_code == 401
    outside.cookies.set("posttrain_label_8765", "guess")
    assert outside.get("/").status_code == 401


def test_the_token_becomes_a_cookie_that_scripts_and_other_sites_do_not_get(outside: TestClient) -> None:
    cookie = outside.get("/?token=the-token").headers["set-cookie"]
    assert cookie == "posttrain_label_8765=the-token; Path=/; HttpOnly; SameSite=Strict"
    assert outside.get("/").status_code == outside.get("/label.js").status_code == outside.get("/label.css").status_code
    assert outside.get("/").status_code == 200


def test_every_answer_forbids_inline_scripts_frames_and_keeping(client: TestClient) -> None:
    for path in ("/", "/api/next", "/nothing"):
        headers = client.get(path).headers
        policy = headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "script-src 'self';" in policy
        assert "frame-ancestors 'none'" in policy
        assert "unsafe" not in policy
        assert (headers["cache-control"], headers["x-content-type-options"]) == ("no-store", "nosniff")
    page = client.get("/").text
    assert page.count("<script") == 1 == page.count('<script src="label.js"')
    assert " on" not in page.replace(" one", "")  # no handlers in the markup
    assert "style=" not in page


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1.evil.example:8765", "localhost.evil.example", "", "["])
def test_a_name_that_was_turned_to_this_machine_is_refused(client: TestClient, host: str) -> None:
    assert client.get("/api/next?annotator=ana", headers={"host": host}).status_code == 421
    assert client.get("/?token=the-token", headers={"host": host}).status_code == 421


@pytest.mark.parametrize("host", ["127.0.0.1:8765", "localhost:9999", "LOCALHOST", "[::1]:8765"])
def test_this_machine_by_any_of_its_names_is_let_in(client: TestClient, host: str) -> None:
    assert client.get("/api/next?annotator=ana", headers={"host": host}).status_code == 200


def test_a_page_of_another_port_or_site_judges_nothing(client: TestClient, tmp_path: Path) -> None:
    for origin in ("http://127.0.0.1:8888", "http://evil.example", "null", ""):
        client.headers["origin"] = origin
        assert judge(client, "tie").status_code == 403, origin
    del client.headers["origin"]
    assert judge(client, "tie").status_code == 403
    client.headers["origin"] = HERE
    body = json.dumps({"annotator": "ana", "question": "q", "verdict": "tie"})
    assert client.post("/api/judge", content=body, headers={"content-type": "text/plain"}).status_code == 415
    assert client.put("/api/judge", json={}).status_code == 405
    assert (tmp_path / "j.jsonl").read_text() == ""


def test_a_body_without_end_is_not_read(client: TestClient) -> None:
    big = json.dumps({"annotator": "ana", "question": "q", "verdict": "tie", "text": "x" * BODY_LIMIT})
    kind = {"content-type": "application/json"}
    assert client.post("/api/judge", content=big, headers=kind).status_code == 413
    assert client.post("/api/judge", content=iter([big.encode()]), headers=kind).status_code == 411


def test_a_body_longer_than_it_says_is_cut_off() -> None:
    read: list[int] = []

    async def reader(scope: Any, receive: Any, send: Any) -> None:
        more = True
        while more:
            message = await receive()
            read.append(len(message["body"]))
            more = message.get("more_body", False)
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body"})

    client = TestClient(Guard(reader, token="t", host="127.0.0.1", port=1), base_url=HERE)
    client.cookies.set("posttrain_label_1", "t")
    headers = {"origin": HERE, "content-type": "application/json", "content-length": "9"}
    client.post("/", content=iter([b"x" * BODY_LIMIT] * 3), headers=headers)
    assert read == [0]


def test_a_judgement_is_told_on_the_disk_and_the_next_is_shown(client: TestClient, tmp_path: Path) -> None:
    view = client.get("/api/next?annotator=ana").json()
    assert (view["done"], view["total"]) == (0, 3)
    shown = [answer["text"] for answer in view["question"]["answers"]]
    after = judge(client, "prefer", 1, seconds=2.345).json()
    assert (after["done"], after["question"]["prompt"][0]["text"]) == (1, "Hi")
    (record,) = map(json.loads, (tmp_path / "j.jsonl").read_text().splitlines())
    assert (record["annotator"], record["verdict"], record["seconds"]) == ("ana", "prefer", 2.3)
    judge(client, "tie")
    judge(client, "edit", 2, text="III")
    assert (
        client.post("/api/export", json={"annotator": "ana"}).json()["said"].endswith("4 pairs of 2 questions (1 tied)")
    )
    written = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert [row["chosen"][0]["content"] for row in written] == [shown[1], "III", "III", "III"]
    assert written[0]["rejected"][0]["content"] == shown[0]


def test_no_answer_of_the_server_says_who_wrote_what_or_what_the_file_prefers(client: TestClient) -> None:
    seen = [client.get(path).text for path in ("/", "/label.js", "/label.css")]
    for verdict, position in (("prefer", 0), ("prefer", 1), ("prefer", 2)):
        seen.append(client.get("/api/next?annotator=ana").text)
        seen.append(judge(client, verdict, position).text)
    seen.append(client.post("/api/undo", json={"annotator": "ana", "done": 3}).text)
    seen.append(client.post("/api/export", json={"annotator": "ana"}).text)
    assert "Go away." in "".join(seen)
    assert "secret-" not in "".join(seen)
    keys = {key for text in seen if text.startswith("{") for key in json.loads(text)}
    assert keys == {"annotator", "done", "total", "ties", "skipped", "question", "agreement", "undone", "said"}
    questions = [json.loads(text).get("question") or {} for text in seen if text.startswith("{")]
    assert {key for question in questions for key in question} == {"id", "prompt", "answers"}


def test_what_is_sent_twice_counts_once(client: TestClient, tmp_path: Path) -> None:
    asked = client.get("/api/next?annotator=ana").json()["question"]["id"]
    body = {"annotator": "ana", "question": asked, "verdict": "prefer", "position": 0}
    assert client.post("/api/judge", json=body).json() == client.post("/api/judge", json=body).json()
    assert client.post("/api/judge", json={**body, "position": 1}).status_code == 409  # another window
    assert len((tmp_path / "j.jsonl").read_text().splitlines()) == 1
    judge(client, "tie")
    for done in (2, 2):  # the second is a repetition of the first
        assert client.post("/api/undo", json={"annotator": "ana", "done": done}).json()["done"] == 1
    assert client.post("/api/undo", json={"annotator": "ana", "done": 1}).json()["undone"] == "prefer"
    assert client.post("/api/undo", json={"annotator": "ana", "done": 0}).json()["undone"] is None


def test_people_judge_apart_and_are_compared_at_the_end(client: TestClient) -> None:
    for name in ("ana", "Ben  B."):
        for _ in ROWS:
            view = client.get("/api/next", params={"annotator": name}).json()
            texts = [answer["text"] for answer in view["question"]["answers"]]
            best = texts.index(min(texts))  # both judge by the same rule, however the answers are shuffled
            body = {"annotator": name, "question": view["question"]["id"], "verdict": "prefer", "position": best}
            view = client.post("/api/judge", json=body).json()
    assert view["annotator"] == "Ben B."
    assert view["agreement"].startswith("Ben B. and ana agree in 100.0% of 3 questions")


@pytest.mark.parametrize(
    "wrong",
    [
        {"position": 2}, {"position": -1}, {"position": None}, {"verdict": "best"}, {"verdict": "tie"},
        {"verdict": "edit", "text": "  "}, {"verdict": "edit"}, {"text": "t"}, {"question": "strange"},
        {"annotator": ""}, {"annotator": "a\u202eb"}, {"annotator": "x" * 61}, {"position": "0"}, {"more": 1},
        {"seconds": -1}, {"seconds": float("nan")}, {"verdict": "edit", "text": "half \ud800"},
    ],
)  # fmt: skip
def test_what_cannot_be_meant_is_refused(client: TestClient, tmp_path: Path, wrong: dict[str, Any]) -> None:
    asked = client.get("/api/next?annotator=ana").json()["question"]["id"]
    body = {"annotator": "ana", "question": asked, "verdict": "prefer", "position": 0, **wrong}
    answer = client.post("/api/judge", content=json.dumps(body), headers={"content-type": "application/json"})
    assert answer.status_code in (400, 422)
    assert answer.json()["error"]
    assert (tmp_path / "j.jsonl").read_text() == ""


def test_an_edit_that_changes_nothing_is_a_preference(client: TestClient, tmp_path: Path) -> None:
    shown = client.get("/api/next?annotator=ana").json()["question"]["answers"]
    judge(client, "edit", 0, text=shown[1]["text"])
    (record,) = map(json.loads, (tmp_path / "j.jsonl").read_text().splitlines())
    assert record["verdict"] == "prefer"
    assert record["answer"] == record["order"][1]


def test_killed_at_any_moment_and_started_again_nothing_is_lost(rows: Path, tmp_path: Path) -> None:
    output = tmp_path / "out.jsonl"
    for round in range(2):
        with served(rows, "--output", output, "--annotator", "ana") as server:
            with httpx2.Client(base_url=server.address.split("/?")[0], timeout=10, trust_env=False) as client:
                assert client.get(server.address).status_code == 200
                client.headers["origin"] = str(client.base_url).rstrip("/")
                view = client.get("/api/next").json()
                assert (view["annotator"], view["done"]) == ("ana", round)
                body = {"annotator": "ana", "question": view["question"]["id"], "verdict": "prefer", "position": 0}
                assert client.post("/api/judge", json=body).json()["done"] == round + 1
            if round == 0:
                server.kill()
                assert not output.exists()
            else:
                assert server.end() == 0
                assert "2 preferred" in server.said
                assert "2 pairs of 2 questions (1 waiting)" in server.said
    assert len(output.read_text().splitlines()) == 2
