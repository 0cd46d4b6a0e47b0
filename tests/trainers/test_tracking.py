"""Trackers take what a run measures, go on where it is resumed, and change nothing of it."""

import importlib.util
import json
import os

import jobs
import pytest

from posttrain import SFTConfig
from posttrain.engine import trackers
from posttrain.engine.trackers import Entry
from posttrain.errors import ConfigError, TrainingError


def needs(package):
    missing = importlib.util.find_spec(package) is None
    return pytest.mark.skipif(missing, reason=f"{package} is not installed")


def scalars(place):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(place))
    events.Reload()
    return {name: {event.step: event.value for event in events.Scalars(name)} for name in events.Tags()["scalars"]}


def losses(output_dir):
    lines = [json.loads(line) for line in (output_dir / "metrics.jsonl").read_text().splitlines()]
    return {line["step"]: line["loss"] for line in lines if "loss" in line}


def start(method, output_dir, **options):
    return jobs.trainer(method, output_dir, max_steps=4, save_steps=2, **options)


@needs("tensorboard")
def test_tensorboard_reads_back_what_the_run_logged_and_the_run_is_the_same_to_the_bit(tmp_path):
    plain = jobs.main("sft", tmp_path / "plain", max_steps=3)
    watched = jobs.main("sft", tmp_path / "tracked", max_steps=3, report_to="tensorboard")
    assert watched == plain
    found = scalars(tmp_path / "tracked" / "runs")
    assert found["train/loss"] == pytest.approx(losses(tmp_path / "tracked"))
    assert set(found["train/train_loss"]) == {3}
    assert not (tmp_path / "plain" / "runs").exists()


@needs("tensorboard")
def test_a_resumed_run_goes_on_in_the_same_events_and_logging_dir_says_where(tmp_path):
    options = {"report_to": ["tensorboard"], "logging_dir": str(tmp_path / "events")}
    start("sft", tmp_path / "run", **options).train()
    again = start("sft", tmp_path / "run", **options)
    again.train(resume_from_checkpoint=str(tmp_path / "run" / "checkpoint-2"))
    assert scalars(tmp_path / "events")["train/loss"] == pytest.approx(losses(tmp_path / "run"))
    assert len(list((tmp_path / "events").glob("events*"))) == 2
    assert json.loads((tmp_path / "run" / "trackers.json").read_text()) == {"tensorboard": str(tmp_path / "events")}


class Broken:
    """Takes two entries, then fails; draws random numbers, as libraries do that name runs."""

    def start(self, run):
        import random

        import torch

        self.run, self.taken = run, []
        random.random()
        torch.rand(3)
        Broken.last = self
        return "known"

    def log(self, metrics, step):
        if len(self.taken) == 2:
            raise OSError("the server is gone")
        self.taken.append((step, metrics))

    def finish(self, succeeded):
        self.succeeded = succeeded


def test_a_tracker_that_fails_is_said_once_and_counted_and_the_run_is_the_same(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(trackers.TRACKERS, "wandb", Entry(make=Broken, package="json"))
    plain = jobs.main("sft", tmp_path / "plain", max_steps=4)
    capsys.readouterr()
    job = jobs.trainer("sft", tmp_path / "run", max_steps=4, report_to="wandb", run_name="mine", project="ours")
    job.train()
    said = capsys.readouterr().out
    assert said.count("OSError: the server is gone") == 1
    assert "wandb did not take 3 of 5 entries; they are all in metrics.jsonl." in said
    assert jobs.weights_hash(job.model) == plain["weights"]
    assert [step for step, _ in Broken.last.taken] == [1, 2]
    assert (Broken.last.run.name, Broken.last.run.project, Broken.last.succeeded) == ("mine", "ours", True)
    assert Broken.last.run.settings["learning_rate"] == 1e-3


def test_a_tracker_that_hangs_does_not_hold_up_the_run(tmp_path, monkeypatch, capsys):
    import threading

    free = threading.Event()

    class Hanging(Broken):
        def log(self, metrics, step):
            free.wait(60)

    monkeypatch.setitem(trackers.TRACKERS, "wandb", Entry(make=Hanging, package="json"))
    monkeypatch.setattr(trackers, "PATIENCE_S", 0.1)
    monkeypatch.setattr(trackers, "WAITING", 2)
    jobs.trainer("sft", tmp_path, max_steps=4, report_to="wandb").train()
    free.set()
    said = capsys.readouterr().out
    assert "wandb is still writing after 0.1 seconds" in said
    assert "too far behind" in said
    assert len(losses(tmp_path)) == 4


def test_a_tracker_that_cannot_start_or_is_not_installed_stops_before_training(tmp_path, monkeypatch):
    class Closed(Broken):
        def start(self, run):
            raise ConnectionError("no login")

    monkeypatch.setitem(trackers.TRACKERS, "wandb", Entry(make=Closed, package="json"))
    with pytest.raises(TrainingError, match=r"report_to='wandb': the run cannot be opened there .*no login"):
        jobs.trainer("sft", tmp_path, report_to="wandb").train()
    assert losses(tmp_path) == {}
    monkeypatch.setitem(trackers.TRACKERS, "mlflow", Entry(make=Closed, package="no_such_package"))
    with pytest.raises(ConfigError, match=r"report_to='mlflow' needs the package no_such_package: pip install no_such"):
        jobs.trainer("sft", tmp_path, report_to=["mlflow"])
    with pytest.raises(ConfigError, match=r"comet_ml.*tensorboard, wandb, trackio and mlflow"):
        SFTConfig(report_to="comet_ml")


def test_all_stands_for_every_tracker_that_is_installed(monkeypatch):
    entries = {"wandb": Entry(make=Broken, package="json"), "mlflow": Entry(make=Broken, package="no_such_package")}
    monkeypatch.setattr(trackers, "TRACKERS", entries)
    assert trackers.chosen("all") == ["wandb"]
    assert trackers.chosen(SFTConfig(report_to=["all"]).report_to) == ["wandb"]
    assert trackers.chosen(SFTConfig(report_to=[]).report_to) == []


@needs("wandb")
def test_wandb_offline_keeps_one_run_across_a_resumption(tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    plain = jobs.main("sft", tmp_path / "plain", max_steps=4)
    start("sft", tmp_path / "run", report_to="wandb", run_name="mine").train()
    name = json.loads((tmp_path / "run" / "trackers.json").read_text())["wandb"]
    again = start("sft", tmp_path / "run", report_to="wandb", run_name="mine")
    again.train(resume_from_checkpoint=str(tmp_path / "run" / "checkpoint-2"))
    assert jobs.weights_hash(again.model) == plain["weights"]
    files = list((tmp_path / "run" / "wandb").glob("offline-run-*/*.wandb"))
    assert files
    assert {file.stem for file in files} == {f"run-{name}"}
    assert b"train/loss" in b"".join(file.read_bytes() for file in files)


@needs("trackio")
def test_trackio_offline_has_the_losses_of_both_parts_of_a_run(tmp_path, monkeypatch):
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))
    plain = jobs.main("sft", tmp_path / "plain", max_steps=4)
    start("sft", tmp_path / "run", report_to="trackio", project="ours").train()
    again = start("sft", tmp_path / "run", report_to="trackio", project="ours")
    again.train(resume_from_checkpoint=str(tmp_path / "run" / "checkpoint-2"))
    assert jobs.weights_hash(again.model) == plain["weights"]
    from trackio.sqlite_storage import SQLiteStorage

    assert SQLiteStorage.get_runs("ours") == ["run"]
    found = {line["step"]: line["train/loss"] for line in SQLiteStorage.get_logs("ours", "run") if "train/loss" in line}
    assert found == pytest.approx(losses(tmp_path / "run"))


@needs("mlflow")
def test_mlflow_has_settings_and_losses_of_one_run(tmp_path, monkeypatch):
    from mlflow import MlflowClient

    place = os.environ.get("MLFLOW_TEST_STORE", f"file://{tmp_path / 'mlruns'}")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", place)
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    start("sft", tmp_path / "run", report_to="mlflow", project="ours", run_name="mine").train()
    again = start("sft", tmp_path / "run", report_to="mlflow", project="ours", run_name="mine")
    again.train(resume_from_checkpoint=str(tmp_path / "run" / "checkpoint-2"))
    client = MlflowClient()
    (run,) = client.search_runs([client.get_experiment_by_name("ours").experiment_id])
    assert (run.info.run_name, run.info.status, run.data.params["learning_rate"]) == ("mine", "FINISHED", "0.001")
    found = {entry.step: entry.value for entry in client.get_metric_history(run.info.run_id, "train/loss")}
    assert found == pytest.approx(losses(tmp_path / "run"))
