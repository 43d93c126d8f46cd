"""`make demo` from start to finish: the real commands, and the share of casual replies that they are about."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
DEMO = ROOT / "recipes" / "quickstart" / "demo.py"


def demo(out: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(DEMO), "--out", str(out)], cwd=out.parent, capture_output=True, text=True, check=False
    )


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_demo_makes_a_model_casual(tmp_path: Path) -> None:
    out = tmp_path / "demo"
    done = demo(out)
    assert done.returncode == 0, done.stdout + done.stderr
    summary = json.loads((out / "summary.json").read_text(encoding="utf-8"))
    before, after = summary["before"], summary["after"]
    assert 0.3 < before["casual"] < 0.7
    assert after["casual"] >= 0.9
    assert after["casual"] - before["casual"] >= 0.3
    # Casual, not babbling: training must not cost fluency.
    assert after["well_formed"] >= before["well_formed"] - 0.05
    for line in ("$ ktodata negatives ", "$ ktodata balance ", "$ ktotrain run "):
        assert line in done.stdout
    plots = sorted((out / "run" / "plots").glob("*.png"))
    assert plots
    assert all(plot.name in done.stdout for plot in plots)
    # The committed recipe stays as it is, and the trained adapter is where the recipe says.
    assert (out / "run" / "model" / "adapter_config.json").exists()
    assert "desirable_weight" in (out / "quickstart.toml").read_text(encoding="utf-8")


def test_a_folder_with_other_things_is_left_alone(tmp_path: Path) -> None:
    kept = tmp_path / "mine" / "thesis.txt"
    kept.parent.mkdir()
    kept.write_text("all of it")
    done = demo(kept.parent)
    assert done.returncode == 1
    assert "not empty" in done.stdout
    assert kept.read_text() == "all of it"


def test_a_step_that_fails_is_named() -> None:
    code = "import demo, pathlib; demo.run('ktodata', 'balance', pathlib.Path('nowhere.parquet'))"
    done = subprocess.run([sys.executable, "-c", code], cwd=DEMO.parent, capture_output=True, text=True, check=False)
    assert "$ ktodata balance nowhere.parquet" in done.stdout
    assert "StepError: `ktodata balance` failed with exit status 1" in done.stderr


def test_a_missing_model_is_named(tmp_path: Path) -> None:
    copy = tmp_path / "recipes" / "quickstart"
    copy.mkdir(parents=True)
    for name in ("demo.py", "style.py", "measure.py", "grammar.py", "grammar.toml"):
        (copy / name).write_bytes((DEMO.parent / name).read_bytes())
    done = subprocess.run([sys.executable, str(copy / "demo.py")], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "demo: recipes/quickstart/model holds neither a model nor an adapter" in done.stdout
