"""Settings for all tests."""

import gc
import sys
from collections.abc import Iterator

import hypothesis
import pytest

# Two workers share two cores with the code under test: an example's time says nothing.
hypothesis.settings.register_profile("shared-cores", deadline=None, max_examples=60)
hypothesis.settings.load_profile("shared-cores")


def pytest_collection_finish() -> None:
    """What imports have made stays: the garbage collector need not go through it again and again in each worker."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True, scope="session")
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """No test reads or writes the user's cache; subprocesses inherit this too."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KTOKIT_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(autouse=True)
def _no_pictures(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """In runs and datasets as small as tests have, drawing takes longer than everything else: only those marked
    `pictures` draw. What runs in a process of its own does, too."""
    if "pictures" in request.keywords:
        return
    monkeypatch.setattr("ktodata.report.plots._picture", lambda draw, height: b"")
    if "torch" in sys.modules:
        monkeypatch.setattr("ktotrain.outputs.draw_plots", lambda *_: [])
