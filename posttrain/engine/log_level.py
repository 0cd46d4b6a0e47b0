"""What transformers and the libraries under it say while a model is trained."""

from __future__ import annotations

import logging
import os

from transformers.utils import logging as transformers_logging

from posttrain.config.machine import MachineConfig


def set_log_level(config: MachineConfig) -> None:
    """Sets the level of transformers' loggers and of `posttrain`'s; `passive` leaves it where it is."""
    name = config.log_level if os.environ.get("RANK", "0") == "0" else config.log_level_replica
    if name == "passive":
        return
    level = logging.getLevelNamesMapping()[name.upper()]
    transformers_logging.set_verbosity(level)
    logging.getLogger("posttrain").setLevel(level)
