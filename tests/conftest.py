"""Settings for all tests."""

from collections.abc import Iterator

import hypothesis
import pytest

# Two workers share two cores with the code under test: an example's time says nothing.
hypothesis.settings.register_profile("shared-cores", deadline=None, max_examples=60)
hypothesis.settings.load_profile("shared-cores")


@pytest.fixture(autouse=True, scope="session")
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """No test reads or writes the user's cache; subprocesses inherit this too."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KTOKIT_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield
