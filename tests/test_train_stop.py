"""Signals, two runs in one folder, full disks: real processes where that is what counts."""

import errno
import json
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
from forked import Forked
from runs import act_before, command, logged, refused, same, small_home, stopped, train, trained

from ktotrain import checkpoint, outputs
from ktotrain.errors import TrainingError
from ktotrain.lock import RunLock


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_home(tmp_path_factory.mktemp("home"))


@pytest.fixture(scope="module")
def whole(home: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the run that nothing has disturbed."""
    return trained(home, tmp_path_factory.mktemp("whole"))


def begin(*arguments: str) -> Forked:
    return Forked("-m", "ktotrain", *arguments, env={**os.environ, "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"})


def wait_until(ready: Callable[[], bool], process: Forked) -> None:
    end = time.monotonic() + 200
    while not ready():
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < end
        time.sleep(0.01)


def lines_of(run: Path) -> int:
    path = run / "metrics.jsonl"
    return path.read_text().count("\n") if path.exists() else 0


# --- signals ------------------------------------------------------------------------------------------------------


def test_a_second_ctrl_c_stops_at_once(home: Path, tmp_path: Path) -> None:
    def twice() -> None:
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)

    with pytest.MonkeyPatch.context() as patch:
        act_before(patch, 3, twice)
        result = train(home, tmp_path)
    assert result.exit_code == 130
    assert result.stderr.splitlines()[-1] == "stopped"
    assert not checkpoint.checkpoints(tmp_path / "run")
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_second_sigterm_is_the_same_request(home: Path, tmp_path: Path) -> None:
    """Schedulers send it to every process of a job, and launchers hand it on besides."""

    def twice() -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGTERM)

    with pytest.MonkeyPatch.context() as patch:
        act_before(patch, 1, twice)
        assert train(home, tmp_path).exit_code == 143
    assert [step for step, _ in checkpoint.checkpoints(tmp_path / "run")] == [1]


def test_stopped_while_scoring_with_the_reference(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is scored is kept, the rest is scored in the same packs later, and the run is the one it would have been."""
    from ktotrain import precompute
    from ktotrain.reference import AsLoaded

    monkeypatch.setattr(precompute, "CHUNK", 8)
    how = ("model.reference_logps=cached",)
    monkeypatch.setenv("KTOKIT_CACHE", str(tmp_path / "cache"))
    honest, calls = AsLoaded.__call__, 0

    def score(self: AsLoaded, batch: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == 3:
            os.kill(os.getpid(), signal.SIGINT)
        return honest(self, batch)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(AsLoaded, "__call__", score)
        result = train(home, tmp_path, *how)
    assert result.exit_code == 130
    said = result.stderr.splitlines()[-1]
    assert said.startswith("stopped while scoring with the reference; what is done is kept. Go on with: ")
    assert shlex.split(said.partition("Go on with: ")[2])[1:] == command(home, tmp_path, *how)
    again = train(home, tmp_path, *how)
    assert again.exit_code == 0, again.output
    assert "32 sequences to score; 16 known" in again.stderr
    monkeypatch.setenv("KTOKIT_CACHE", str(tmp_path / "other"))
    same(trained(home, tmp_path / "whole", *how), tmp_path / "run")


def test_stopped_while_evaluating_the_evaluation_is_made_later(home: Path, tmp_path: Path) -> None:
    from ktotrain import evaluate

    how = (f"data.eval={home / 'eval.jsonl'}", "train.eval_every=3", "adapter.rank=2", "adapter.dropout=0.3")
    honest, calls = evaluate.run_step, 0

    def run_step(*arguments: Any, **more: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == 1:
            os.kill(os.getpid(), signal.SIGTERM)
        return honest(*arguments, **more)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(evaluate, "run_step", run_step)
        result = train(home, tmp_path, *how)
    assert result.exit_code == 143
    assert "stopped after step 3 of 6" in result.stderr
    assert not any("eval_loss" in record for record in logged(tmp_path / "run"))
    resumed = trained(home, tmp_path, *how, flags=["--resume"])
    same(trained(home, tmp_path / "whole", *how), resumed)


@pytest.mark.slow
def test_two_processes_stop_at_one_step_and_go_on(home: Path, tmp_path: Path) -> None:
    """Ctrl-C goes to the launcher alone, since a terminal would not reach the groups of its processes."""
    how = ("train.max_steps=30", "adapter.rank=2", "adapter.dropout=0.1", "train.pack_tokens=300")
    process = begin(*command(home, tmp_path, *how, flags=["--processes", "2"]))
    wait_until(lambda: lines_of(tmp_path / "run") >= 2, process)
    process.send_signal(signal.SIGINT)
    said = process.communicate(timeout=100)[1]
    assert process.returncode == 130, said
    assert "Traceback" not in said
    assert "error:" not in said
    last = said.strip().splitlines()[-1]
    assert last.endswith("--resume --processes 2")
    ((step, _),) = checkpoint.checkpoints(tmp_path / "run")
    assert step == lines_of(tmp_path / "run") < 30
    flags = ["--processes", "2"]
    resumed = begin(*command(home, tmp_path, *how, flags=["--resume", *flags]))
    assert resumed.wait(200) == 0, resumed.communicate()[1]
    resumed.communicate()
    whole = begin(*command(home, tmp_path / "whole", *how, flags=flags))
    assert whole.wait(200) == 0, whole.communicate()[1]
    whole.communicate()
    same(tmp_path / "whole" / "run", tmp_path / "run")


@pytest.mark.slow
def test_two_processes_and_a_second_ctrl_c(home: Path, tmp_path: Path) -> None:
    """They are killed, so it is over at once, whatever they are in; and said as one process says it."""
    process = begin(*command(home, tmp_path, "train.max_steps=1000", flags=["--processes", "2"]))
    wait_until(lambda: lines_of(tmp_path / "run") >= 2, process)
    workers = psutil.Process(process.pid).children()
    process.send_signal(signal.SIGINT)
    time.sleep(0.05)  # two signals at once would be one
    process.send_signal(signal.SIGINT)
    said = process.communicate(timeout=100)[1]
    assert process.returncode == 130, said
    assert "Traceback" not in said
    assert not any(worker.is_running() for worker in workers)


LAUNCHER = """
import os, subprocess, sys, time
os.environ["TORCHELASTIC_RUN_ID"] = "a launch"
child = "import time, ktotrain.launch as l; l.end_with_the_launcher(); print('on', flush=True); time.sleep(60)"
print(subprocess.Popen([sys.executable, "-c", child]).pid, flush=True)
time.sleep(60)
"""


@pytest.mark.slow
def test_processes_end_when_their_launcher_was_killed() -> None:
    with subprocess.Popen([sys.executable, "-c", LAUNCHER], stdout=subprocess.PIPE, text=True) as launcher:
        assert launcher.stdout is not None
        worker = psutil.Process(int(launcher.stdout.readline()))
        assert launcher.stdout.readline() == "on\n"
        launcher.kill()
    _, alive = psutil.wait_procs([worker], timeout=30)
    for process in alive:
        process.kill()
    assert not alive


# --- the lock -----------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_two_runs_in_one_folder_and_a_dead_one(home: Path, tmp_path: Path) -> None:
    how = ("train.max_steps=2000", "train.save_every=1")
    process = begin(*command(home, tmp_path, *how))
    try:
        wait_until(lambda: len(checkpoint.checkpoints(tmp_path / "run")) > 1, process)
        for flags in ([], ["--resume"]):
            said = f"another run is at work in it (process {process.pid} on "
            refused(train(home, tmp_path, *how, flags=flags), said)
        assert process.poll() is None, "the first one goes on"
    finally:
        process.kill()
        process.communicate()
    # The lock's file is still there, with a process's number in it that may be another's by now; it blocks nobody.
    assert json.loads((tmp_path / "run" / ".lock").read_text())["pid"] == process.pid
    result = stopped(home, tmp_path, 1, *how, flags=["--resume"])
    assert "going on from" in result.stderr
    assert not (tmp_path / "run" / ".lock").exists()


def test_a_lock_is_for_one(tmp_path: Path) -> None:
    folder = tmp_path / "new" / "run"
    with RunLock(folder):
        pid = psutil.Process().pid
        with pytest.raises(TrainingError, match=rf"another run is at work in it \(process {pid} on "), RunLock(folder):
            pass
        with RunLock(folder, enabled=False):  # the other processes of the same run
            pass
    assert not (tmp_path / "new").exists(), "a folder that nothing was put into goes again"
    folder.mkdir(parents=True)
    with RunLock(folder):
        (folder / "metrics.jsonl").touch()
    assert [path.name for path in folder.iterdir()] == ["metrics.jsonl"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(TrainingError, match="cannot be written"), RunLock(tmp_path / "run"):
        pass


def test_a_file_in_the_place_of_a_parent(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(TrainingError, match="cannot be written"), RunLock(tmp_path / "file" / "run"):
        pass


# --- full disks ---------------------------------------------------------------------------------------------------


def test_a_full_disk_while_saving_does_not_end_the_run(
    home: Path, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ktotrain import keep

    honest = keep.write_state

    def write_state(folder: Path, position: Any, *arguments: Any, **more: Any) -> None:
        honest(folder, position, *arguments, **more)
        if position.step in (4, 6):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(keep, "write_state", write_state)
    result = train(home, tmp_path, "train.save_every=2")
    assert result.exit_code == 0, result.output
    assert result.stderr.count("could not be saved: No space left on device") == 2
    assert "step-2 stays" in result.stderr
    assert [path.name for path in checkpoint.folder_of(tmp_path / "run").iterdir()] == ["step-2"]
    monkeypatch.undo()
    same(whole, tmp_path / "run")


def test_a_full_disk_at_the_end_leaves_a_checkpoint_to_finish_from(
    home: Path, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_room(*_: Any) -> None:
        raise TrainingError("the model cannot be saved: No space left on device", where="model", do="Make room")

    monkeypatch.setattr(outputs, "save_model", no_room)
    result = train(home, tmp_path)
    refused(result, "No space left on device", "Make room", "--resume goes on from", "step-6")
    monkeypatch.undo()
    same(whole, trained(home, tmp_path, flags=["--resume"]))


def test_lines_that_found_no_room_are_written_later(
    home: Path, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two steps are logged on a full disk, a run is stopped with them unwritten, and the resumed one has them all."""
    from ktotrain.log import MetricsLog

    class Full:
        def __init__(self, file: Any) -> None:
            self.file = file

        def __getattr__(self, name: str) -> Any:
            return getattr(self.file, name)

        def write(self, data: bytes) -> int:
            if lines_of(tmp_path / "run") >= 2:
                self.file.write(data[:7])
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            written: int = self.file.write(data)
            return written

    honest = MetricsLog.__enter__

    def enter(log: MetricsLog) -> MetricsLog:
        honest(log)
        log.file = Full(log.file)  # type: ignore[assignment]
        return log

    monkeypatch.setattr(MetricsLog, "__enter__", enter)
    result = stopped(home, tmp_path, 4)
    assert result.stderr.count("metrics.jsonl cannot be written (No space left on device)") == 1
    assert lines_of(tmp_path / "run") == 2
    monkeypatch.undo()
    same(whole, trained(home, tmp_path, flags=["--resume"]))
