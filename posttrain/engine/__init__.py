"""The engine: takes batches from a source, runs the learner, applies a loss, updates. It knows no algorithm."""
