"""Killed at any moment and resumed, a run is the run that was not; `python -m benchmarks.kills` does 20 of these."""

from pathlib import Path

import pytest
from forked import Forked

from benchmarks import kills


@pytest.mark.slow
def test_three_kills(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        kills, "begin", lambda arguments, env, log: Forked(*arguments, env=env, cwd=kills.ROOT, into=log)
    )
    report = kills.kill_and_resume(tmp_path, kills=3, seed=4)
    assert report.kills.total() == 3
    assert report.kills["model"] == 1
    assert report.kills["save"] == 1
    assert report.differences == []
