"""The runner of recipes: once, again, interrupted, changed."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from posttrain.config.methods import METHODS as SHAPES
from posttrain.config.recipe import Recipe, load_recipe
from posttrain.errors import ConfigError, DataError, TrainingError
from posttrain.recipes import methods
from posttrain.recipes.methods import StageOutcome, StageRun
from posttrain.recipes.pipeline import RECORD, StageRecord, run_recipe
from posttrain.recipes.stage_key import path_identity

RECIPE = """\
output_dir: out
stages:
  - name: sft
    method: sft
    model: base
    train_dataset: chat.jsonl
    learning_rate: 1e-3
  - name: dpo
    method: dpo
    model: ${sft.model}
    train_dataset: pairs.jsonl
"""


@dataclass
class Fake:
    """Stands for the trainers: writes a model made of its fields, and remembers its runs."""

    runs: list[StageRun] = field(default_factory=list)
    said: list[str] = field(default_factory=list)
    breaks: set[str] = field(default_factory=set)

    def train(self, run: StageRun) -> StageOutcome:
        self.runs.append(run)
        if run.directory.name in self.breaks:
            checkpoint = run.directory / "checkpoint-2"
            checkpoint.mkdir(parents=True, exist_ok=True)
            (checkpoint / "training_state.pt").write_text("state")
            raise KeyboardInterrupt
        model = run.directory / "model"
        model.mkdir(exist_ok=True)
        (model / "weights").write_text(f"{run.fields.to_yaml()}{path_identity(run.fields.model)}")
        return StageOutcome(outputs={"model": str(model)}, summary={"steps": 1})

    @property
    def names(self) -> list[str]:
        return [run.directory.name for run in self.runs]

    def go(self, *overrides: str, only: str | None = None) -> dict[str, StageRecord]:
        self.runs.clear()
        self.said.clear()
        return run_recipe(recipe(*overrides), only=only, say=self.said.append)


def recipe(*overrides: str) -> Recipe:
    return load_recipe("recipe.yaml", overrides)


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Fake:
    monkeypatch.chdir(tmp_path)
    Path("recipe.yaml").write_text(RECIPE)
    Path("chat.jsonl").write_text("{}\n")
    Path("pairs.jsonl").write_text("{}\n")
    Path("base").mkdir()
    Path("base/weights").write_text("base")
    stand_in = Fake()
    monkeypatch.setattr(methods, "METHODS", {"sft": stand_in.train, "dpo": stand_in.train})
    return stand_in


def test_stages_run_in_order_and_hand_on_what_they_wrote(fake: Fake) -> None:
    records = fake.go()
    assert fake.names == ["sft", "dpo"]
    assert fake.runs[1].fields.model == "out/sft/model"
    assert records["dpo"].outputs == {"model": "out/dpo/model"}
    assert json.loads(Path("out/sft", RECORD).read_text())["status"] == "finished"


def test_a_finished_stage_is_not_run_twice(fake: Fake) -> None:
    first = fake.go()
    assert fake.go() == first
    assert fake.names == []
    assert "finished before, kept" in fake.said[0]


def test_a_finished_recipe_may_be_moved(fake: Fake) -> None:
    fake.go()
    Path("out").rename("elsewhere")
    fake.go("output_dir=elsewhere", only="sft")
    assert fake.names == []


def test_a_changed_field_runs_its_stage_and_what_hangs_on_it(fake: Fake) -> None:
    fake.go()
    fake.go("sft.learning_rate=2e-3")
    assert fake.names == ["sft", "dpo"]
    assert "its fields changed since it ran" in fake.said[0]
    assert "its model changed since it ran" in fake.said[1]
    assert Path("out/sft.old-1/model/weights").is_file()
    fake.go("sft.learning_rate=3e-3")
    assert Path("out/sft.old-2/model/weights").is_file()


def test_a_changed_later_stage_leaves_the_earlier_one(fake: Fake) -> None:
    fake.go()
    fake.go("dpo.beta=0.5")
    assert fake.names == ["dpo"]


def test_a_changed_file_runs_its_stage(fake: Fake) -> None:
    fake.go()
    Path("pairs.jsonl").write_text("{}\n{}\n")
    fake.go()
    assert fake.names == ["dpo"]
    assert "its train_dataset changed" in fake.said[1]


def test_a_changed_base_model_runs_everything(fake: Fake) -> None:
    fake.go()
    Path("base/weights").write_text("another")
    fake.go()
    assert fake.names == ["sft", "dpo"]


def test_what_does_not_change_the_result_does_not_run_a_stage(fake: Fake) -> None:
    fake.go()
    fake.go("sft.disable_tqdm=true", "dpo.run_name=x")
    assert fake.names == []
    fake.go("sft.report_to=all", "sft.project=other", "sft.dataset_num_proc=2", "sft.hub_model_id=me/model")
    assert fake.names == []


def test_a_stage_whose_output_is_gone_runs_again(fake: Fake) -> None:
    fake.go()
    Path("out/sft/model/weights").unlink()
    Path("out/sft/model").rmdir()
    fake.go()
    assert fake.names == ["sft"]  # it wrote the same model, so the later stage stands


def test_an_interrupted_stage_goes_on(fake: Fake) -> None:
    fake.breaks = {"dpo"}
    with pytest.raises(KeyboardInterrupt):
        fake.go()
    assert StageRecord.read(Path("out/dpo")).status == "running"
    fake.breaks = set()
    fake.go()
    assert fake.names == ["dpo"]
    assert fake.runs[0].resume is True
    assert "goes on from its last checkpoint" in fake.said[1]


def test_an_interrupted_stage_that_changed_does_not_go_on(fake: Fake) -> None:
    fake.breaks = {"dpo"}
    with pytest.raises(KeyboardInterrupt):
        fake.go()
    fake.breaks = set()
    fake.go("dpo.beta=0.5")
    assert fake.runs[0].resume is False
    assert Path("out/dpo.old-1/checkpoint-2").is_dir()
    assert not Path("out/dpo/checkpoint-2").exists()


def test_a_stage_that_failed_at_once_leaves_nothing_behind(fake: Fake, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(run: StageRun) -> StageOutcome:
        raise TrainingError("no")

    monkeypatch.setitem(methods.METHODS, "sft", fails)
    with pytest.raises(TrainingError):
        fake.go()
    monkeypatch.setitem(methods.METHODS, "sft", fake.train)
    fake.go("sft.learning_rate=2e-3")
    assert fake.names == ["sft", "dpo"]
    assert not list(Path("out").glob("*.old-*"))


def test_files_of_nobody_are_moved_aside(fake: Fake) -> None:
    Path("out/sft").mkdir(parents=True)
    Path("out/sft/notes.txt").write_text("mine")
    fake.go()
    assert Path("out/sft.old-1/notes.txt").read_text() == "mine"


def test_a_broken_record_counts_as_none(fake: Fake) -> None:
    fake.go()
    Path("out/sft", RECORD).write_text("{")
    fake.go()
    assert fake.names == ["sft"]
    assert Path("out/sft.old-1/model").is_dir()


def test_only_one_stage(fake: Fake) -> None:
    with pytest.raises(ConfigError, match=r"needs \$\{sft.model\}, but 'sft' has not finished"):
        fake.go(only="dpo")
    fake.go(only="sft")
    assert fake.names == ["sft"]
    fake.go(only="dpo")
    assert fake.names == ["dpo"]
    with pytest.raises(ConfigError, match="did you mean 'dpo'"):
        fake.go(only="dpoo")


def test_a_missing_file_is_found_before_the_first_stage(fake: Fake) -> None:
    Path("pairs.jsonl").rename("pair.jsonl")
    with pytest.raises(
        DataError, match=r"recipe.yaml line 11, stage 'dpo': train_dataset='pairs.jsonl' does not exist"
    ):
        fake.go()
    assert fake.names == []
    assert not Path("out").exists()


def test_a_missing_model_directory_is_found_before_the_first_stage(fake: Fake) -> None:
    with pytest.raises(DataError, match=r"model='./bse' does not exist; did you mean 'base'"):
        fake.go("sft.model=./bse")


def test_a_recipe_is_not_run_by_several_processes(fake: Fake, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ConfigError, match=r"torchrun -m posttrain\.cli sft"):
        fake.go()


def test_the_recipe_s_seed_reaches_the_stages(fake: Fake) -> None:
    fake.go("seed=7", "dpo.seed=8")
    assert [run.fields.seed for run in fake.runs] == [7, 8]


def test_the_two_tables_of_methods_agree(monkeypatch: pytest.MonkeyPatch) -> None:
    assert set(methods.METHODS) == set(SHAPES)
    for shape in SHAPES.values():
        assert set(shape.reads) <= set(shape.fields.model_fields)


def test_sft_then_dpo_interrupted_and_resumed_equals_uninterrupted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny_model_dir: Callable[..., str]
) -> None:
    from safetensors.torch import load_file

    from posttrain.engine.loop import Loop

    monkeypatch.chdir(tmp_path)
    rows = [f'{{"prompt": "say {i}", "completion": " it is {i}"}}\n' for i in range(8)]
    pairs = [f'{{"prompt": "say {i}", "chosen": " it is {i}", "rejected": " no"}}\n' for i in range(8)]
    Path("chat.jsonl").write_text("".join(rows))
    Path("pairs.jsonl").write_text("".join(pairs))
    fields = (
        "    use_cpu: true\n    disable_tqdm: true\n    per_device_train_batch_size: 2\n    num_train_epochs: 1\n"
        "    save_steps: 2\n    bf16: false\n"
    )
    text = RECIPE.replace("model: base", f"model: {tiny_model_dir('qwen2')}")
    Path("recipe.yaml").write_text(text.replace("  - name: dpo", fields + "  - name: dpo") + fields)
    run_recipe(recipe("output_dir=whole"))

    whole_step, stopped = Loop._one_step, []

    def stop_after_three(self: Loop, *given: object, **named: object) -> object:
        if self.output_dir.name == "dpo" and self.state.global_step == 3 and not stopped:
            stopped.append(True)
            raise KeyboardInterrupt
        return whole_step(self, *given, **named)

    monkeypatch.setattr(Loop, "_one_step", stop_after_three)
    with pytest.raises(KeyboardInterrupt):
        run_recipe(recipe("output_dir=cut"))
    said: list[str] = []
    run_recipe(recipe("output_dir=cut"), say=said.append)
    assert "finished before, kept" in said[0]
    assert "goes on from its last checkpoint" in said[1]
    for stage in ("sft", "dpo"):
        whole, cut = (load_file(f"{place}/{stage}/model/model.safetensors") for place in ("whole", "cut"))
        assert whole.keys() == cut.keys()
        assert all(whole[name].equal(cut[name]) for name in whole)
