"""Times a step of GRPO (rollout, reward, update) against TRL: `python -m benchmarks.grpo_step`."""

from benchmarks.compare import main

if __name__ == "__main__":
    main("grpo")
