"""The learner of scores: a model with a head of one number, seen as a function from a forest to a score a leaf.

The model is transformers' `AutoModelForSequenceClassification` with `num_labels=1`, and the score is read where its
own forward reads it: at the last token of a row that is not the pad token.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from posttrain.errors import ModelError
from posttrain.models.body import BodyLearner
from posttrain.models.layouts import probe
from posttrain.types import Outputs, TokenForest


class ScoreLearner(BodyLearner):
    """Backbone and score head in one module; only its forward is called, so that DDP and FSDP2 can wrap it.

    At construction its scores are compared with those of the model's own forward; ModelError where they differ, and
    for a model whose score is not a matrix applied to the state of one token (encoders).
    """

    def __init__(self, model: Any, *, layout: str | None = None) -> None:
        plain = model.get_base_model() if hasattr(model, "peft_config") else model
        if not isinstance(getattr(plain, "score", None), nn.Module) or plain.config.num_labels != 1:
            raise ModelError(
                f"{type(plain).__name__} has no score head of one number. Load it with load_score_model, or as "
                "AutoModelForSequenceClassification with num_labels=1."
            )
        super().__init__(model, layout=layout)
        self._compare()

    @property
    def head_note(self) -> str:
        """What reads the hidden states, in two words."""
        return "score head"

    def forward(self, forest: TokenForest, needs: Sequence[str] = ()) -> Outputs:
        """Outputs with `scores` [Q]. `needs` is taken as every learner takes it; there is nothing else to give."""
        laid = self.body.lay(replace(forest, ends=self._read_at(forest)))
        hidden = self.body.hidden(laid, laid.ends)
        # a score is compared with another one, and the short formats would round the difference away
        with torch.autocast(hidden.device.type, enabled=False):
            scores = self.body.plain.score(hidden.to(self._head_dtype))[:, 0].float()
        return Outputs(logprobs=scores.new_empty(0), scores=scores)

    @property
    def _head_dtype(self) -> torch.dtype:
        return next(self.body.plain.score.parameters()).dtype

    def _read_at(self, forest: TokenForest) -> Tensor:
        """[Q]: each leaf's last token that is not the pad token, on the path from its root."""
        pad = self.body.plain.config.get_text_config().pad_token_id
        if pad is None or not len(forest.ends) or not bool((forest.tokens[forest.ends] == pad).any()):
            return forest.ends
        tokens, offsets, places = forest.tokens.tolist(), forest.offsets, []
        for leaf in forest.leaves:
            path = [place for s in forest.path(leaf) for place in range(offsets[s], offsets[s] + forest.lengths[s])]
            places.append(next((place for place in reversed(path) if tokens[place] != pad), path[0]))
        return torch.tensor(places, dtype=torch.int64, device=forest.tokens.device)

    @torch.no_grad()
    def _compare(self) -> None:
        """Raises ModelError unless the scores are those of the model's own forward, row by row."""
        plain = self.body.plain
        config, device = plain.config.get_text_config(), next(plain.parameters()).device
        forest = TokenForest.from_trees(probe(config.vocab_size, getattr(config, "sliding_window", None))).to(device)
        offsets, modes = forest.offsets, [(module, module.training) for module in self.modules()]
        self.eval()
        try:
            found = self(forest).scores
            self.release()
            rows = [
                torch.cat([forest.tokens[offsets[s] : offsets[s] + forest.lengths[s]] for s in forest.path(leaf)])
                for leaf in forest.leaves
            ]
            own = torch.stack([plain(input_ids=row[None], use_cache=False).logits[0, 0] for row in rows]).float()
        finally:
            for module, mode in modes:
                module.training = mode
        assert found is not None
        exact = plain.dtype == torch.float32
        error, allowed = float((found - own).abs().max()), (1e-4 if exact else 0.05) * max(1.0, float(own.abs().max()))
        if not error <= allowed:
            raise ModelError(
                f"the scores of {type(plain).__name__} are not those of its score head at one token: they differ by "
                f"{error:.2g} from its own. Reward models of this kind are used with reward_model, not trained."
            )
