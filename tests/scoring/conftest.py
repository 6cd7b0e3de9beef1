"""What the tests of scoring share."""

import pytest
from odd import make_bundle


@pytest.fixture(scope="session")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A bundle that estimates energy."""
    return make_bundle(tmp_path_factory.mktemp("bundle") / "one")
