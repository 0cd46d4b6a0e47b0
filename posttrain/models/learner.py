"""The learner: a language model seen as a function from a forest to the log-probabilities of its trained tokens."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from posttrain.models.body import BodyLearner
from posttrain.models.heads import Chosen, chosen_logprobs, log_collision
from posttrain.models.layouts import Laid, probe
from posttrain.models.recomputed import recomputing
from posttrain.types import Outputs, TokenForest


class Learner(BodyLearner):
    """Backbone and head in one module; only its forward is called, so that DDP and FSDP2 can wrap it.

    At construction the layout is chosen (`Body`), and the fused head is compared with the model's own
    logits; where they differ (LoRA on the head, logit scaling, soft-capping) the model's own head is used.
    """

    def __init__(self, model: Any, *, layout: str | None = None) -> None:
        super().__init__(model, layout=layout)
        self.temperature = 1.0  # log-probabilities and entropy are those of softmax(logits / temperature)
        self.fused_head = self._head_is_a_matrix()

    @property
    def head_note(self) -> str:
        """What makes log-probabilities of hidden states, in two words."""
        return "fused head" if self.fused_head else "own head"

    def forward(self, forest: TokenForest, needs: Sequence[str] = ("logprobs",)) -> Outputs:
        """Outputs at the M trained tokens.

        `needs` may add "entropy", or "entropy_grad" for one with a gradient, "log_collision" and "mean_logprobs".
        """
        laid = self.body.lay(forest)
        hidden = self.body.hidden(laid, laid.predictors) if self.fused_head else None
        return self.read(forest, laid, hidden, needs)

    def read(self, forest: TokenForest, laid: Laid, hidden: Tensor | None, needs: Sequence[str]) -> Outputs:
        """What the head makes of the states `hidden` [M, H]; the model's own head, where it is used, needs none."""
        entropy_grad = "entropy_grad" in needs
        entropy = entropy_grad or "entropy" in needs
        collision = None
        if self.fused_head and hidden is not None:
            head = self.head
            chosen = chosen_logprobs(
                hidden, head.weight, forest.targets, bias=head.bias, temperature=self.temperature,
                entropy=entropy, entropy_grad=entropy_grad, mean_logprobs="mean_logprobs" in needs,
            )  # fmt: skip
            if "log_collision" in needs:
                collision = log_collision(hidden, head.weight, bias=head.bias, temperature=self.temperature)
        else:
            logits = self._own_logits(laid.inputs, laid.predictors).float()
            logits = logits if self.temperature == 1.0 else logits / self.temperature
            chosen = _from_logits(logits, forest.targets, entropy, entropy_grad, "mean_logprobs" in needs)
            if "log_collision" in needs:
                collision = (2 * logits.detach().log_softmax(dim=-1)).logsumexp(dim=-1)
        return Outputs(
            logprobs=chosen.logprobs, correct=chosen.correct, entropy=chosen.entropy, log_collision=collision,
            mean_logprobs=chosen.mean_logprobs,
        )  # fmt: skip

    @property
    def head(self) -> Any:
        """The module that makes logits of hidden states; all there is to it where `fused_head`."""
        return self.body.plain.get_output_embeddings()

    def states(self, forest: TokenForest) -> Tensor:
        """[M, H]: what the head is given to predict the trained tokens from."""
        laid = self.body.lay(forest)
        return self.body.hidden(laid, laid.predictors)

    def own_logits(self, forest: TokenForest, rows: slice) -> Tensor:
        """[r, V]: the model's own logits before the trained tokens `rows`; a whole forward pass each time."""
        laid = self.body.lay(forest)
        return self._own_logits(laid.inputs, laid.predictors[rows])

    def _own_logits(self, inputs: dict[str, Any], predictors: Tensor) -> Tensor:
        with recomputing():
            if inputs["input_ids"].shape[0] == 1:  # logits_to_keep picks columns, the same in every row
                return self.body.plain(**inputs, logits_to_keep=predictors).logits[0]
            return self.body.plain(**inputs).logits.flatten(0, 1)[predictors]

    @torch.no_grad()
    def _head_is_a_matrix(self) -> bool:
        """Whether the logits are what the head's own product gives: no scaling, no cap, no adapter after it."""
        head = self.body.plain.get_output_embeddings()
        if type(head) is not nn.Linear:
            return False
        products: list[Tensor] = []
        hook = head.register_forward_hook(lambda module, args, output: products.append(output))
        was_training = self.training
        self.eval()
        try:
            forest = TokenForest.from_trees(probe(self.body.plain.config.get_text_config().vocab_size))
            tokens = forest.tokens[None].to(head.weight.device)
            logits = self.body.plain(input_ids=tokens, use_cache=False).logits
        finally:
            hook.remove()
            self.train(was_training)
        return len(products) == 1 and torch.equal(products[0], logits)


def _from_logits(logits: Tensor, targets: Tensor, entropy: bool, entropy_grad: bool, mean_logprobs: bool) -> Chosen:
    table = logits.log_softmax(dim=-1)
    nats = None
    if entropy:
        kept = table if entropy_grad else table.detach()
        kept = kept.clamp_min(torch.finfo(torch.float32).min)  # 0 log 0 counts as 0, and so does its gradient
        nats = -(kept.exp() * kept).sum(dim=-1)
    return Chosen(
        logprobs=table.gather(1, targets[:, None])[:, 0],
        correct=logits.detach().argmax(dim=-1) == targets,
        entropy=nats,
        mean_logprobs=table.mean(dim=-1) if mean_logprobs else None,
    )
