"""Times a step of SFT against TRL: `python -m benchmarks.sft_step`."""

from benchmarks.compare import main

if __name__ == "__main__":
    main("sft")
