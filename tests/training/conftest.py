"""What the tests of training share: a feed in memory for the loop, and one small corpus for what needs Ray."""

import pytest
import torch


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> None:
    """Sums in one order, whatever the machine."""
    torch.set_num_threads(1)
