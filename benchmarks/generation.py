"""Times sampling against transformers' `generate`: `python -m benchmarks.generation`."""

from benchmarks.compare import main

if __name__ == "__main__":
    main("generation")
