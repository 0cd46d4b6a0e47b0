"""Times a step of reward modelling against TRL: `python -m benchmarks.reward_step`."""

from benchmarks.compare import main

if __name__ == "__main__":
    main("reward")
