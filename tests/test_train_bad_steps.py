"""Steps whose loss or gradient is not finite are skipped and named; too many in a row end the run, nothing is lost."""

import dataclasses
import json
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

import pytest
import torch
from runs import logged, refused, same, small_home, train, trained
from safetensors.torch import load_file

from ktotrain import learn
from ktotrain.checkpoint import checkpoints


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_home(tmp_path_factory.mktemp("home"))


Spoil = Callable[[Collection[int]], None]


@pytest.fixture(params=["loss", "reference point", "gradient"])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def spoil(monkeypatch: pytest.MonkeyPatch) -> Callable[[str, Collection[int]], None]:
    """Makes some steps bad, by the number of the step that computes them in this process."""

    def put(kind: str, steps: Collection[int]) -> None:
        honest = learn.run_step
        number = 0

        def run_step(packs: Any, machinery: Any, objective: Any, learn: Any) -> Any:
            nonlocal number
            number += learn is not None
            bad = learn is not None and number in steps
            if bad and kind == "gradient":
                return honest(packs, machinery, objective, learn=lambda loss: learn(loss * torch.inf))
            scores = honest(packs, machinery, objective, learn=learn)
            if bad and kind == "loss":
                policy = scores.policy_n.clone()
                policy[1] = torch.nan
                scores = dataclasses.replace(scores, policy_n=policy)
            if bad and kind == "reference point":
                scores = dataclasses.replace(scores, raw=float("inf"))
            return scores

        monkeypatch.setattr(learn, "run_step", run_step)

    return put


def test_a_bad_step_is_skipped_and_named(home: Path, tmp_path: Path, spoil: Any, kind: str) -> None:
    spoil(kind, {2, 5})
    result = train(home, tmp_path)
    assert result.exit_code == 0, result.output
    run = tmp_path / "run"
    text = (run / "metrics.jsonl").read_text()
    assert "NaN" not in text
    assert "Infinity" not in text
    records = logged(run)
    assert [record["step"] for record in records] == [1, 2, 3, 4, 5, 6]
    assert [record["step"] for record in records if "skipped" in record] == [2, 5]
    assert records[1].keys() == {"step", "epoch", "skipped"}
    assert f"the {kind} is not finite" in records[1]["skipped"]
    assert "rows.jsonl" in records[1]["skipped"], "rows are named"
    assert {"loss": "nan", "reference point": "inf", "gradient": "norm"}[kind] in records[1]["skipped"]
    assert result.stderr.count("is skipped: ") == 2
    assert "2 of 6 steps were skipped" in result.stderr
    rates = [record["learning_rate"] for record in records if "learning_rate" in record]
    assert rates == sorted(set(rates), reverse=True), "the schedule goes on"
    weights = load_file(run / "model" / "model.safetensors")
    assert all(torch.isfinite(tensor).all() for tensor in weights.values())


def test_a_skipped_step_changes_nothing_but_the_schedule(home: Path, tmp_path: Path, spoil: Any) -> None:
    """Stopped right before and right after a bad step, weights and optimizer are the same."""
    spoil("gradient", {3})
    trained(home, tmp_path, "train.save_every=1", "train.keep_checkpoints=0")
    saved = dict(checkpoints(tmp_path / "run"))
    for name in ("weights.safetensors", "optimizer.safetensors"):
        two, three, four = ((saved[step] / name).read_bytes() for step in (2, 3, 4))
        assert two == three != four
    schedules = [json.loads((saved[step] / "state.json").read_text())["scheduler"]["last_epoch"] for step in (2, 3)]
    assert schedules == [2, 3]


def test_too_many_in_a_row_end_the_run_with_the_last_good_state_saved(home: Path, tmp_path: Path, spoil: Any) -> None:
    spoil("loss", {3, 4})
    result = train(home, tmp_path, "train.max_bad_steps=2")
    refused(result, "steps 3 to 4", "2 steps in a row", "rows:", "saved in", "step-4", "--resume passes over")
    assert not (tmp_path / "run" / "model").exists()
    ((step, saved),) = checkpoints(tmp_path / "run")
    assert step == 4
    assert all(torch.isfinite(tensor).all() for tensor in load_file(saved / "weights.safetensors").values())
    # The same run, in which the bad steps do not end it, has the same weights there and in the end.
    resumed = trained(home, tmp_path, "train.max_bad_steps=2", flags=["--resume"])
    assert [record["step"] for record in logged(resumed) if "skipped" in record] == [3, 4]
    spoil("loss", {3, 4})
    same(trained(home, tmp_path / "whole", "train.max_bad_steps=3"), resumed)


def test_who_resumes_gets_as_many_tries_again(home: Path, tmp_path: Path, spoil: Any) -> None:
    spoil("loss", {3, 4})
    assert train(home, tmp_path, "train.max_bad_steps=2").exit_code == 1
    spoil("loss", {1})  # step 5 of the run: the third in a row, and the first since somebody looked
    resumed = trained(home, tmp_path, "train.max_bad_steps=2", flags=["--resume"])
    assert [record["step"] for record in logged(resumed) if "skipped" in record] == [3, 4, 5]


def test_scattered_bad_steps_do_not_add_up(home: Path, tmp_path: Path, spoil: Any) -> None:
    spoil("loss", {1, 3, 5})
    run = trained(home, tmp_path, "train.max_bad_steps=2")
    assert len([record for record in logged(run) if "skipped" in record]) == 3


@pytest.mark.parametrize(
    ("save_every", "where", "saved"), [(1, "step 3", [1, 2]), (2, "step 4", [2]), (0, "steps 4 to 5", [])]
)
def test_weights_that_are_not_finite_are_never_saved(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, save_every: int, where: str, saved: list[int]
) -> None:
    """The third update ruins the weights, with a finite gradient: what was saved before it stays the newest.

    Without a checkpoint due the next steps find out; with one, it does, where the ruined weight is in no row too.
    """
    from ktotrain.update import Update

    honest, done = Update.apply, 0

    def apply(update: Update) -> dict[str, float]:
        nonlocal done
        done += 1
        found = honest(update)
        if done == 3:
            update.parameters[0].data[slice(1) if save_every == 1 else ...] = torch.inf
        return found

    monkeypatch.setattr(Update, "apply", apply)
    result = train(home, tmp_path, f"train.save_every={save_every}", "train.max_bad_steps=2")
    refused(result, where, "the weights are not finite", "step-2" if saved else "no checkpoint to go on from")
    assert [step for step, _ in checkpoints(tmp_path / "run")] == saved
    assert not (tmp_path / "run" / "model").exists()


def test_the_last_update_ruins_the_weights(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from ktotrain.update import Update

    honest = Update.apply

    def apply(update: Update) -> dict[str, float]:
        found = honest(update)
        update.parameters[0].data[0] = torch.nan
        return found

    monkeypatch.setattr(Update, "apply", apply)
    refused(train(home, tmp_path, "train.max_steps=1"), "the trained weights are not finite", "no model is saved")
    assert not (tmp_path / "run" / "model").exists()


def test_a_weight_that_is_far_too_large(home: Path, tmp_path: Path) -> None:
    """Nothing is put in the way here: this is what it looks like. A run that learned nothing leaves nothing."""
    result = train(home, tmp_path, "loss.desirable_weight=1e38")
    refused(result, "steps 1 to 3", "the gradient is not finite (norm inf", "nothing has been learned")
    assert [record["step"] for record in logged(tmp_path / "run") if "skipped" in record] == [1, 2, 3]
    assert not checkpoints(tmp_path / "run")
    trained(home, tmp_path, "train.max_steps=1")


def test_an_evaluation_that_is_not_finite_leaves_no_nan(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ktotrain import trainer

    monkeypatch.setattr(trainer, "evaluate", lambda *_: {"eval_loss": float("nan"), "eval_kl": 0.5})
    result = train(home, tmp_path, f"data.eval={home / 'eval.jsonl'}", "train.max_steps=1")
    assert result.exit_code == 0, result.output
    last = logged(tmp_path / "run")[-1]
    assert last == {"step": 1, "epoch": last["epoch"], "eval_kl": 0.5, "not_finite": ["eval_loss"]}
