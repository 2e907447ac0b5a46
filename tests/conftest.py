"""Settings that all tests share."""

import pytest
import torch as th
from hypothesis import settings

# The same examples in every run, and no failure because a shared machine is slow
settings.register_profile("reproducible", derandomize=True, deadline=None)
settings.load_profile("reproducible")


@pytest.fixture(autouse=True, scope="session")
def _one_thread():
    th.set_num_threads(1)
