"""Uploads to a hub that lives in this process: what is sent when, and that a failure costs nothing."""

import base64
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import huggingface_hub.constants
import jobs
import pytest
from test_callbacks import build

from posttrain.errors import ConfigError, HubError


class FakeHub(ThreadingHTTPServer):
    """Takes repositories and commits as the hub's address does, all files as plain ones."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.created, self.branches, self.commits, self.tokens, self.broken = [], [], [], set(), False


class _Handler(BaseHTTPRequestHandler):
    def do_POST(self):
        hub, body = self.server, self.rfile.read(int(self.headers.get("Content-Length", 0)))
        hub.tokens.add(self.headers.get("Authorization"))
        if self.path == "/api/repos/create":
            asked = json.loads(body)
            hub.created.append(asked)
            return self.answer({"url": f"{hub.address}/me/{asked['name']}"})
        if "/branch/" in self.path:
            hub.branches.append(self.path.rsplit("/", 1)[1])
            return self.answer({})
        if hub.broken:
            return self.answer({"error": "out of order"}, 403)
        if "validate-yaml" in self.path:
            return self.answer({"errors": [], "warnings": []})
        if "/preupload/" in self.path:
            files = [
                {"path": f["path"], "uploadMode": "regular", "shouldIgnore": False} for f in json.loads(body)["files"]
            ]
            return self.answer({"files": files})
        lines = [json.loads(line) for line in body.splitlines()]
        files = {
            line["value"]["path"]: base64.b64decode(line["value"]["content"]) for line in lines if line["key"] == "file"
        }
        summary = next(line["value"]["summary"] for line in lines if line["key"] == "header")
        hub.commits.append((summary, self.path.rsplit("/", 1)[1], files))
        return self.answer({"commitUrl": f"{hub.address}/me/x/commit/1", "commitOid": "1", "success": True})

    def do_GET(self):
        self.answer({"id": "me/x", "sha": "0", "siblings": []})

    def answer(self, content, status=200):
        data = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *given):
        pass


@pytest.fixture
def hub(monkeypatch):
    server = FakeHub()
    server.address = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", server.address)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()


PUSHED = {"push_to_hub": True, "hub_model_id": "x", "hub_token": "hf_secret", "save_strategy": "steps", "save_steps": 2}


@pytest.mark.parametrize(
    ("strategy", "places"),
    [
        ("end", set()),
        ("every_save", {"model.safetensors"}),
        ("checkpoint", {"model.safetensors", "last-checkpoint/training_state.pt"}),
        (
            "all_checkpoints",
            {"model.safetensors", "checkpoint-2/training_state.pt", "checkpoint-4/trainer_state.json"},
        ),
    ],
)
def test_hub_strategy_says_what_is_uploaded_of_a_run(tmp_path, hub, strategy, places):
    plain = build(tmp_path / "plain")
    plain.train()
    trainer = build(
        tmp_path / "run",
        hub_strategy=strategy,
        hub_always_push=True,
        hub_private_repo=True,
        save_total_limit=1,
        **PUSHED,
    )
    trainer.train()
    sent = {path for _, _, files in hub.commits for path in files}
    assert places <= sent
    assert bool(sent) == bool(places)
    assert "training_state.pt" not in sent
    assert [made["visibility"] for made in hub.created] == ["private"]
    assert not (tmp_path / "run" / ".uploading").exists()
    assert jobs.weights_hash(trainer.model) == jobs.weights_hash(plain.model)


def test_a_saved_model_is_uploaded_with_its_card_to_the_branch_asked_for(tmp_path, hub):
    trainer = build(tmp_path / "run", hub_strategy="end", hub_revision="trial", **PUSHED)
    trainer.train()
    trainer.save_model(tmp_path / "model")
    assert hub.branches == ["trial"]
    ((summary, branch, files),) = hub.commits
    assert (summary, branch) == ("Model save", "trial")
    assert files["model.safetensors"] == (tmp_path / "model" / "model.safetensors").read_bytes()
    assert files["README.md"] == (tmp_path / "model" / "README.md").read_bytes()
    assert hub.tokens == {"Bearer hf_secret"}


def test_push_to_hub_uploads_without_the_setting_and_names_the_dataset(tmp_path, hub):
    trainer = build(tmp_path / "mine")
    trainer.train()
    where = trainer.push_to_hub(dataset_name="them/data", tags="small", token="hf_other")
    assert hub.created[0]["name"] == "mine"
    assert where.startswith(hub.address)
    card = hub.commits[0][2]["README.md"].decode()
    assert "- them/data" in card
    assert "- small" in card
    assert hub.tokens == {"Bearer hf_other"}


def test_an_upload_that_fails_is_said_and_counted_and_the_run_is_whole(tmp_path, hub, capsys):
    plain = build(tmp_path / "plain")
    plain.train()
    hub.broken = True
    trainer = build(tmp_path / "run", hub_always_push=True, **PUSHED)
    trainer.train()
    trainer.save_model(tmp_path / "model")
    said = capsys.readouterr().out
    assert said.count("Not uploaded: Step") == 2
    assert f"upload it with `hf upload me/x {tmp_path / 'model'}`" in said
    assert trainer._uploads.failed == 3
    assert jobs.weights_hash(trainer.model) == jobs.weights_hash(plain.model)
    assert (tmp_path / "model" / "model.safetensors").is_file()
    with pytest.raises(HubError, match="The model is whole there"):
        trainer.push_to_hub()


def test_a_hub_that_cannot_be_reached_is_known_before_training(tmp_path):
    trainer = build(tmp_path, **PUSHED)  # offline, as all tests are
    with pytest.raises(HubError, match=r"the repository 'x' cannot be opened on the hub \(OfflineModeIsEnabled"):
        trainer.train()
    assert trainer.state.global_step == 0


def test_the_token_is_in_no_file_of_the_run(tmp_path, hub):
    trainer = build(tmp_path / "run", report_to="tensorboard", **PUSHED)
    trainer.train()
    trainer.save_model(tmp_path / "run" / "model")
    files = [file for file in (tmp_path / "run").rglob("*") if file.is_file()]
    assert any(file.name == "config.yaml" for file in files)
    assert not [file for file in files if b"hf_secret" in file.read_bytes()]
    assert "hf_secret" not in json.dumps(trainer.args.to_dict())


def test_the_token_of_a_command_is_in_no_file_of_the_run(tmp_path, hub, monkeypatch):
    flags = ["--hub_token", "hf_secret", "--hub-token=hf_secret", "sft.push_to_hub_token=hf_secret", "--seed", "1"]
    monkeypatch.setattr("sys.argv", ["posttrain", "sft", *flags, "{token: hf_abcdefghijklmnopqrstuvwxyz}"])
    trainer = build(tmp_path, **PUSHED)
    trainer.train()
    shown = "posttrain sft --hub_token *** --hub-token=*** sft.push_to_hub_token=*** --seed 1 {token: ***}"
    assert " ".join(json.loads((tmp_path / "environment.json").read_text())["command"]) == shown
    assert shown in (tmp_path / "README.md").read_text()
    assert not [file for file in tmp_path.rglob("*") if file.is_file() and b"hf_" in file.read_bytes()]


def test_a_model_saved_into_its_run_is_uploaded_without_the_run(tmp_path, hub):
    trainer = build(tmp_path / "run", hub_strategy="end", report_to="tensorboard", **PUSHED)
    trainer.train()
    (tmp_path / "run" / "samples.jsonl").write_text("{}")
    trainer.save_model()
    ((_, _, files),) = hub.commits
    assert {"model.safetensors", "config.json", "tokenizer.json", "README.md"} <= set(files)
    assert set(files) == set(hub_files_of(trainer, tmp_path / "model"))


def hub_files_of(trainer, directory):
    """The files of the same model saved where nothing else is."""
    trainer.save_model(directory)
    return [str(file.relative_to(directory)) for file in directory.rglob("*") if file.is_file()]


def test_a_setting_of_uploads_without_push_to_hub_is_refused():
    from posttrain import SFTConfig

    with pytest.raises(ConfigError, match="hub_strategy has an effect only together with push_to_hub=true"):
        SFTConfig(hub_strategy="end")
    with pytest.warns(FutureWarning, match="hub_model_id"):
        assert SFTConfig(push_to_hub_model_id="me/x").hub_model_id == "me/x"
