"""The drift of a run: how far its model has moved from the start, and whether it still writes text, at intervals."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from posttrain.config.gate import GateConfig
from posttrain.errors import ConfigError
from posttrain.evaluation import AnyTask
from posttrain.evaluation.drift import (
    FILE,
    PROMPTS,
    Drift,
    DriftProbe,
    drift_metrics,
    drift_prompts,
    neutral_texts,
    spread,
    write_drift,
)
from posttrain.models.divergence import Moment
from posttrain.models.reference import StartingWeights
from posttrain.trainers.assembly import Assembled
from posttrain.types import Prompt, Segment

FOLDER = "evaluation"
ANSWER = 128  # tokens of an answer to a training prompt at most
SHORTEST = 2  # tokens that make a prompt: plain text to imitate has nothing that asks for an answer


class DriftWatch:
    """Measures a run's model against its start, on the same prompts and texts each time.

    What was found lies in `output_dir/evaluation/step-N/drift.json`. Only the first process measures.
    """

    def __init__(
        self,
        assembled: Assembled,
        tokenizer: Any,
        start: StartingWeights,
        *,
        prompts: Sequence[Prompt],
        neutral: Sequence[str],
        max_new_tokens: int,
    ) -> None:
        self._assembled = assembled
        asked = repr((list(prompts), list(neutral), max_new_tokens, assembled.config.seed))
        self.identity = hashlib.blake2b(asked.encode(), digest_size=16).hexdigest()  # of what is asked
        self._last: tuple[int, dict[str, Drift]] | None = None  # a gate may ask for the same step
        self._probe = DriftProbe(
            Moment(learner=assembled.learner, during=start), tokenizer, prompts=prompts, neutral=neutral,
            texts=PROMPTS, max_new_tokens=max_new_tokens, seed=assembled.config.seed,
            max_tokens=assembled.budget.max_tokens, autocast=assembled.runtime.autocast,
        )  # fmt: skip

    def measure(self, step: int) -> dict[str, float]:
        """The metrics of the model as it is after this step; of the start, step 0, what its answers look like."""
        if step == 0:
            return self._probe.start_text()
        if self._last is None or self._last[0] != step:
            self._last = (step, self._probe(Moment(learner=self._assembled.learner)))
        drift = self._last[1]
        write_drift(step_folder(self._assembled.config.output_dir, step) / FILE, drift)
        return drift_metrics(drift)


def drift_watch(
    assembled: Assembled,
    tokenizer: Any,
    start: StartingWeights,
    *,
    gate: GateConfig | None,
    tasks: Sequence[AnyTask],
    prompts: Callable[[], Sequence[Prompt]] | None,
) -> DriftWatch | None:
    """Sees drift on what the gate's tasks ask, else on the training's prompts; None where nobody wants to know."""
    config = assembled.config
    if gate is not None:
        asked, longest = drift_prompts(tasks)
        files = {gate.neutral, config.drift_text}
    else:
        if prompts is None:
            raise ConfigError("drift_steps: this model writes no answers that could drift; leave it out")
        positions = getattr(assembled.learner.model.config.get_text_config(), "max_position_embeddings", None)
        asked, longest = chosen_prompts(prompts(), positions)
        files = {config.drift_text}
    neutral = [text for file in sorted(file for file in files if file is not None) for text in neutral_texts(file)]
    if not asked and not neutral:
        if config.drift_steps is None:
            return None
        raise ConfigError(
            "drift_steps: nothing asks for an answer here; name a file of neutral text in drift_text, or leave "
            "drift_steps out"
        )
    return DriftWatch(assembled, tokenizer, start, prompts=asked, neutral=neutral, max_new_tokens=longest)


def step_folder(output_dir: str | Path, step: int) -> Path:
    """Where what was measured of this step lies."""
    return Path(output_dir) / FOLDER / f"step-{step}"


def training_prompts(trees: Sequence[Segment]) -> list[Prompt]:
    """What comes before the first trained token of each tree, where that asks for an answer."""
    return [prompt for tree in trees if len(prompt := _before_training(tree)) >= SHORTEST]


def chosen_prompts(prompts: Sequence[Prompt], positions: int | None) -> tuple[list[Prompt], int]:
    """Some of the prompts, evenly spread, and the tokens of an answer to one of them at most.

    A model of so many `positions` has room for both; prompts that leave too little of it are not asked.
    """
    room = None if positions is None else positions - ANSWER // 4
    fitting = spread([prompt for prompt in prompts if room is None or len(prompt) <= room], PROMPTS)
    longest = max(map(len, fitting), default=0)
    return fitting, ANSWER if positions is None else min(ANSWER, positions - longest)


def _before_training(tree: Segment) -> list[int]:
    tokens: list[int] = []
    while tree.children:
        tokens += tree.tokens
        tree = tree.children[0]
    return [*tokens, *tree.tokens[: tree.trained[0][0]]]
