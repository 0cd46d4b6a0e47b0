"""Instructions whose following a program can check: the 25 types of IFEval (arXiv:2311.07911)."""

from posttrain.rewards.instructions.following import follows, instruction_following

__all__ = ["follows", "instruction_following"]
