"""What a recipe will need, before it starts: memory, time and disk of each stage that trains."""

from __future__ import annotations

from posttrain.recipes.estimating.estimate import StageEstimate as StageEstimate
from posttrain.recipes.estimating.stages import estimate_recipe as estimate_recipe
