"""One file per algorithm: its batch, how trees become one, and its loss, a pure function of batch and outputs."""
