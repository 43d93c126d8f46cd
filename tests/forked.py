"""Processes like those of `python -m ktotrain`, forked from one that has imported what they need.

They are real processes, with a number, an environment and a session of their own, and take signals; but a fresh
interpreter imports for longer than most of our tests' runs take. Where it matters that the interpreter is fresh, as for
the README's blocks and the recipes' scripts, tests start one.
"""

import atexit
import multiprocessing
import os
import runpy
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from multiprocessing.process import BaseProcess
from pathlib import Path

IMPORTED = (
    "ktodata.cli",
    "ktodata.generate.transformers",
    "ktotrain.cli",
    "ktotrain.trainer",
    "accelerate.commands.accelerate_cli",
    "matplotlib.backends.backend_agg",
    "peft",
    "torch._dynamo",
    "torch.distributed.run",
    "transformers.models.llama.modeling_llama",
    "transformers.optimization",
    "transformers.trainer_utils",
)


class Started:
    """What `subprocess.Popen` offers, as far as tests and torch's launcher use it."""

    def __init__(self, process: BaseProcess) -> None:
        process.start()
        assert process.pid is not None
        self.process, self.pid = process, process.pid

    @property
    def returncode(self) -> int | None:
        return self.process.exitcode

    def poll(self) -> int | None:
        return self.process.exitcode

    def wait(self, timeout: float | None = None) -> int:
        self.process.join(timeout)
        code = self.process.exitcode
        if code is None:
            raise subprocess.TimeoutExpired(self.process.name, timeout or 0)
        return code

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


class Forked(Started):
    """`subprocess.Popen([sys.executable, *arguments])`, where these begin with `-m MODULE` or are a script and its own.

    What it says is kept for `communicate`, unless it goes `into` a file.
    """

    def __init__(
        self,
        *arguments: str,
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
        into: Path | None = None,
    ) -> None:
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload([*IMPORTED])
        self._files = [tempfile.NamedTemporaryFile() for _ in range(2)]  # noqa: SIM115
        said = [into or Path(file.name) for file in self._files]
        begin = (arguments, dict(env or os.environ), cwd or Path.cwd(), said)
        super().__init__(context.Process(target=_begin, args=begin))
        atexit.register(self.kill)  # nobody waits for it, then

    def communicate(self, timeout: float | None = None) -> tuple[str, str]:
        self.wait(timeout)
        one, other = (Path(file.name).read_text(encoding="utf-8") for file in self._files)
        return one, other


def run(
    *arguments: str, env: Mapping[str, str] | None = None, cwd: Path | None = None, timeout: float = 200
) -> subprocess.CompletedProcess[str]:
    """`subprocess.run([sys.executable, *arguments], capture_output=True, text=True, check=False)`."""
    process = Forked(*arguments, env=env, cwd=cwd)
    try:
        stdout, stderr = process.communicate(timeout)
    finally:
        process.kill()
    return subprocess.CompletedProcess(arguments, process.wait(), stdout, stderr)


def _begin(arguments: Sequence[str], env: Mapping[str, str], cwd: Path, said: Sequence[Path]) -> None:
    """In a process that has been asked for: as if an interpreter had started with these arguments."""
    from torch.distributed.elastic.multiprocessing.subprocess_handler.subprocess_handler import SubprocessHandler

    for number, path in enumerate(said, start=1):
        with path.open("ab") as file:
            os.dup2(file.fileno(), number)
    os.chdir(cwd)
    # If it is a launcher, its workers are forked from it.
    SubprocessHandler._popen = lambda _, command, env: _worker(command[1:], env)  # type: ignore[method-assign,assignment]
    try:
        _execute(arguments, env)
    finally:
        atexit._run_exitfuncs()


def _worker(arguments: Sequence[str], env: Mapping[str, str]) -> Started:
    return Started(multiprocessing.get_context("fork").Process(target=_execute, args=(arguments, env)))


def _execute(arguments: Sequence[str], env: Mapping[str, str]) -> None:
    os.setsid()
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    os.environ.clear()
    os.environ.update(env)
    first, *rest = (argument for argument in arguments if argument != "-u")
    if first == "-m":
        sys.argv[:] = rest
        runpy.run_module(rest[0], run_name="__main__", alter_sys=True)
    else:
        sys.argv[:] = first, *rest
        runpy.run_path(first, run_name="__main__")
