"""What a run counts beside transformers' TrainerState, and what becomes of steps that are not finite."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import save_file

from posttrain.engine.step import StepResult
from posttrain.errors import TrainingError
from posttrain.types import Batch


@dataclass(kw_only=True)
class Tally:
    """Saved with the run."""

    loss: float = 0.0  # summed over the steps that were taken
    steps: int = 0  # taken, that is not skipped
    skipped_in_a_row: int = 0
    epochs_cut: int = 0  # that a callback ended early

    def take(self, result: StepResult) -> None:
        """Counts a step that was taken."""
        self.skipped_in_a_row = 0
        self.loss += result.loss
        self.steps += 1

    @property
    def mean_loss(self) -> float:
        return self.loss / max(self.steps, 1)

    def skip(self, batch: Batch, result: StepResult, *, step: int, rank: int, output_dir: Path, allowed: int) -> str:
        """Counts a step that was skipped, keeps its batch for inspection, and says so.

        Raises TrainingError when so many in a row are not `allowed`.
        """
        self.skipped_in_a_row += 1
        kept = output_dir / "nonfinite" / f"step-{step}-rank-{rank}.safetensors"
        kept.parent.mkdir(parents=True, exist_ok=True)
        save_file(_tensors(batch), kept)
        what = f"loss {result.loss}, gradient norm {result.grad_norm}"
        if self.skipped_in_a_row >= allowed:
            raise TrainingError(
                f"{self.skipped_in_a_row} steps in a row with a non-finite loss or gradient (last: {what}). "
                f"The weights are those after step {step - self.skipped_in_a_row}; the batches are in {kept.parent}. "
                "Start a new run with a lower learning_rate, more warmup_steps or a lower max_grad_norm (a checkpoint "
                "serves as its model), or resume with bf16=False."
            )
        return f"Step {step} skipped: {what}. Its batch is kept in {kept}."


def _tensors(batch: Batch) -> dict[str, torch.Tensor]:
    """Every tensor of a batch by name."""
    named = {f"forest.{name}": value for name, value in vars(batch.forest).items()} | vars(batch)
    return {n: v.detach().cpu().contiguous().clone() for n, v in named.items() if isinstance(v, torch.Tensor)}
