import os
from pathlib import Path

import pytest


@pytest.fixture
def public_data() -> Path:
    """The folder of public datasets that POSTTRAIN_DATA names."""
    if not os.environ.get("POSTTRAIN_DATA"):
        pytest.skip("POSTTRAIN_DATA does not name the folder of public datasets")
    return Path(os.environ["POSTTRAIN_DATA"])
