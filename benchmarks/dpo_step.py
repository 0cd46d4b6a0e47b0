"""Times a step of DPO against TRL: `python -m benchmarks.dpo_step`."""

from benchmarks.compare import main

if __name__ == "__main__":
    main("dpo")
