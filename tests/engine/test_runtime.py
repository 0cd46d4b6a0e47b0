import random

import numpy as np
import torch

from posttrain.engine.runtime import random_state, seed_everything, set_random_state


def draw():
    return random.random(), random.gauss(0, 1), np.random.rand(), np.random.normal(), torch.rand(1).item()


def test_every_generator_goes_on_where_it_was(tmp_path):
    seed_everything(3)
    draw()  # an odd number of Gaussian draws leaves one cached in Python's and in NumPy's generator
    torch.save(random_state(torch.device("cpu")), tmp_path / "state.pt")
    expected = draw()
    seed_everything(9)
    set_random_state(torch.load(tmp_path / "state.pt", weights_only=True), torch.device("cpu"))
    assert draw() == expected
