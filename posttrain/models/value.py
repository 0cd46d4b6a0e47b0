"""A policy with a value model beside it: what reward is still to be expected before each token, and after the last.

The value model is a head on the policy's own states, which costs next to nothing, or a model of its own that gives one
number (a reward model, or a language model under a fresh score head). A head on the policy's states is zero at first;
its loss changes the states too, unless they are detached.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional

from posttrain.errors import CheckpointError
from posttrain.models.body import Body
from posttrain.models.layouts import Laid
from posttrain.models.learner import Learner
from posttrain.types import Batch, Outputs, Segment, TokenForest

FILE = "value.safetensors"


class ActorCritic(nn.Module):
    """The learner of a policy and its value model in one module; only its forward is called while training."""

    def __init__(self, policy: Learner, value_model: Any = None, *, detached: bool = False) -> None:
        """`value_model` has a score head of one number; None is a head on the policy's states, `detached` or not."""
        super().__init__()
        self.policy = policy
        self.value_model = value_model
        self._body = policy.body if value_model is None else Body(value_model)
        self.detached = detached
        self.warming_up = False  # the policy's states are kept from the value model's loss for now
        self.value_head: nn.Linear | None = None
        if value_model is None:
            shape, device = policy.model.config.get_text_config(), next(policy.parameters()).device
            head = nn.Linear(shape.hidden_size, 1, dtype=torch.float32, device=device)
            nn.init.zeros_(head.weight)
            nn.init.zeros_(head.bias)
            self.value_head = head

    @property
    def model(self) -> Any:
        """The policy's model."""
        return self.policy.model

    @property
    def layout_note(self) -> str:
        """Why the value model's layout is not the first one; empty where it is."""
        return self._body.layout_note

    @property
    def shared(self) -> bool:
        """Whether the value model is a head on the policy's states."""
        return self.value_model is None

    def release(self) -> Any:
        """The policy's model with the attention and the modules it came with."""
        self._body.release()
        return self.policy.release()

    def recompute_activations(self, **options: Any) -> None:
        """Trades time for memory: activations are computed again in the backward pass."""
        self.policy.recompute_activations(**options)
        if not self.shared:
            self._body.recompute_activations(**options)

    def switch_off_dropout(self) -> None:
        """Sets every dropout of policy and value model to 0."""
        self.policy.switch_off_dropout()
        if not self.shared:
            self._body.switch_off_dropout()

    def value_parameters(self) -> list[nn.Parameter]:
        """The parameters of the value model alone that are trained."""
        owner: Any = self.value_head if self.shared else self.value_model
        return [parameter for parameter in owner.parameters() if parameter.requires_grad]

    def forward(self, forest: TokenForest, needs: Sequence[str] = ("logprobs", "values")) -> Outputs:
        """The policy's outputs, with `values` [M] and, where `needs` names them, `end_values` [Q]."""
        ends = "end_values" in needs
        if not self.shared:
            outputs = self.policy(forest, needs)
            laid = self._body.lay(forest)
            return self._with_values(outputs, self._body.hidden(laid, _places(laid, ends)), len(forest.targets), ends)
        laid = self.policy.body.lay(forest)
        hidden, count = self.policy.body.hidden(laid, _places(laid, ends)), len(forest.targets)
        outputs = self.policy.read(forest, laid, hidden[:count], needs)
        if self.detached or self.warming_up:
            hidden = hidden.detach()
        return self._with_values(outputs, hidden, count, ends)

    def values(self, forest: TokenForest, *, ends: bool = False) -> tuple[Tensor, Tensor | None]:
        """values [M] and, where wanted, end_values [Q] alone: one pass through one body, no language-model head."""
        laid = self._body.lay(forest)
        made = self._read(self._body.hidden(laid, _places(laid, ends)))
        count = len(forest.targets)
        return made[:count], made[count:] if ends else None

    def _with_values(self, outputs: Outputs, hidden: Tensor, count: int, ends: bool) -> Outputs:
        values = self._read(hidden)
        return replace(outputs, values=values[:count], end_values=values[count:] if ends else None)

    def _read(self, hidden: Tensor) -> Tensor:
        """[K] float32: the head's number for each state [K, H]."""
        head = self.value_head if self.value_head is not None else self._body.plain.score
        with torch.autocast(hidden.device.type, enabled=False):
            if isinstance(head, nn.Linear):
                bias = None if head.bias is None else head.bias.float()
                return functional.linear(hidden.float(), head.weight.float(), bias)[:, 0]
            return head(hidden.to(next(head.parameters()).dtype))[:, 0].float()  # an adapter's wrapper

    def save_value(self, directory: Path) -> None:
        """Writes what is trained of the value model, for `load_value`."""
        save_file({name: value.detach().contiguous() for name, value in self._trained().items()}, directory / FILE)

    def load_value(self, directory: Path) -> None:
        """Raises CheckpointError where the directory has no value model, or that of another kind."""
        file = directory / FILE
        if not file.is_file():
            raise CheckpointError(f"{directory} has no {FILE}: it holds no value model, so PPO cannot go on from it.")
        saved, mine = load_file(file), self._trained()
        if {n: v.shape for n, v in saved.items()} != {n: v.shape for n, v in mine.items()}:
            raise CheckpointError(f"{file} belongs to another value model. Start with the value_model it began with.")
        with torch.no_grad():
            for name, value in mine.items():
                value.copy_(saved[name])

    def _trained(self) -> dict[str, nn.Parameter]:
        owner: Any = self.value_head if self.shared else self.value_model
        return {name: value for name, value in owner.named_parameters() if value.requires_grad}


def _places(laid: Laid, ends: bool) -> Tensor:
    return torch.cat([laid.predictors, laid.ends]) if ends else laid.predictors


@torch.no_grad()
def tree_values(
    trees: Sequence[Segment],
    learner: ActorCritic,
    max_tokens: int,
    autocast: Callable[[], Any],
    *,
    ends: bool = False,
) -> tuple[list[list[float]], list[float]]:
    """Per leaf, the values of its trained tokens; and the value after each leaf's end, or nothing."""
    if not trees:
        return [], []
    device, was_training = next(learner.parameters()).device, learner.training
    learner.eval()
    forest = TokenForest.from_trees(trees)
    values: list[float] = []
    after: list[float] = []
    for part in Batch(forest=forest, atom=forest.sequence, units={}).cut(max_tokens):
        with autocast():
            here, end_values = learner.values(part.forest.to(device), ends=ends)
        values += here.tolist()
        after += [] if end_values is None else end_values.tolist()
    learner.train(was_training)
    places = forest.trained_before
    return [values[start:end] for start, end in pairwise(places)], after
