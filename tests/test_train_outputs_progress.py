"""Progress: few plain lines in a file or pipe, one live bar on a terminal, never a control character in a log."""

import io
import re

import pytest

from ktotrain.progress import MOST_LINES, MOST_NOTES, Progress

METRICS = {"loss": 0.5, "rewards/margins": 0.25, "kl": 1.0, "tokens_per_second": 12345.6, "grad_norm": 3.0}


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def plain(total: int, *, done: int = 0, seconds: float = 1.0) -> list[str]:
    """The lines of a whole run in a pipe, at so many seconds a step."""
    file, now = io.StringIO(), [0.0]
    with Progress(total, done=done, file=file, clock=lambda: now[0]) as bar:
        for step in range(done + 1, total + 1):
            now[0] += seconds
            bar.update(step, METRICS)
    return file.getvalue().splitlines()


@pytest.mark.parametrize("total", [1, 2, 3, 99, 100, 101, 250, 12_345])
def test_a_pipe_gets_a_bounded_number_of_lines_with_first_and_last(total: int) -> None:
    lines = plain(total)
    assert min(total, MOST_LINES // 2) <= len(lines) <= MOST_LINES
    assert lines[0].startswith(f"step 1/{total}  ")
    assert lines[-1].startswith(f"step {total}/{total}  100%")


def test_a_line_says_where_the_run_is_and_when_it_ends() -> None:
    assert plain(10, seconds=500.0)[3] == (
        "step 4/10  40%  loss 0.5000  margin +0.2500  kl 1.000  tok/s 12,346  33:20 elapsed, 50:00 left"
    )
    assert plain(10, seconds=5000.0)[3].endswith("5:33:20 elapsed, 8:20:00 left")


def test_a_resumed_run_counts_its_own_steps_for_the_time_left() -> None:
    lines = plain(100, done=98, seconds=10.0)
    assert lines[0].endswith("0:10 elapsed, 0:10 left")
    assert lines[0].startswith("step 99/100")
    assert len(lines) == 2


def test_what_a_step_lacks_is_left_out_of_its_line() -> None:
    file = io.StringIO()
    with Progress(1, file=file) as bar:
        bar.update(1, {"loss": 0.5})
    assert "margin" not in file.getvalue()
    assert "loss 0.5000" in file.getvalue()


def test_a_log_has_no_control_characters() -> None:
    file = io.StringIO()
    with Progress(2, file=file) as bar:
        bar.say("model \x1b[31mred\x1b[0m\r\x9b2J\ttab\nnext [bold]x[/bold]")
        bar.update(1, METRICS)
    assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]", file.getvalue())
    assert file.getvalue().startswith(r"model \x1b[31mred\x1b[0m\x0d\x9b2J" + "\ttab\nnext [bold]x[/bold]\n")


def test_a_terminal_gets_a_bar_with_loss_margin_and_time_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "140")
    file = Terminal()
    with Progress(10, title="training", file=file) as bar:
        bar.update(3, METRICS)
        bar.say("a line [bold]of[/bold] its own \x1b[2J")
        bar.update(4, {"loss": 0.25})
    text = file.getvalue()
    assert "\x1b[2J" not in text
    screen = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", text)
    assert "a line [bold]of[/bold] its own" in screen
    assert "4/10" in screen
    assert "loss 0.2500  margin +0.2500" in screen  # the margin is the last one that was measured
    assert "left" in screen


def test_a_dumb_terminal_gets_plain_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "dumb")
    file = Terminal()
    with Progress(1, file=file) as bar:
        bar.update(1, METRICS)
    assert "\x1b" not in file.getvalue()
    assert file.getvalue().startswith("step 1/1")


@pytest.mark.parametrize("terminal", [False, True])
def test_other_processes_say_nothing(terminal: bool) -> None:
    file = Terminal() if terminal else io.StringIO()
    with Progress(5, enabled=False, file=file) as bar:
        bar.update(5, METRICS)
        bar.say("text")
    assert file.getvalue() == ""


def test_an_error_ends_the_bar_and_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    file = Terminal()

    def interrupted() -> None:
        with Progress(5, file=file) as bar:
            bar.update(1, METRICS)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert file.getvalue().endswith(("\x1b[?25h", "\n"))  # the cursor is shown again


def test_a_run_of_no_steps_is_no_error() -> None:
    assert plain(0) == []


class Unread(io.StringIO):
    """A pipe whose reader has gone, or a file on a full disk, after so many lines."""

    def __init__(self, lines: int) -> None:
        super().__init__()
        self.left = lines

    def flush(self) -> None:
        self.left -= 1
        if self.left < 0:
            raise BrokenPipeError


def test_a_run_goes_on_when_nobody_reads_it_any_more() -> None:
    file = Unread(2)
    with Progress(100, file=file) as bar:
        for step in range(1, 101):
            bar.update(step, METRICS)
        bar.say("done")
    assert file.getvalue().count("step ") <= 3
    assert bar.done == 100


def test_a_tiny_terminal_gets_a_bar() -> None:
    file = Terminal()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("COLUMNS", "5")
        patch.setenv("LINES", "1")
        patch.setenv("TERM", "xterm")
        with Progress(10, file=file) as bar:
            for step in range(1, 11):
                bar.update(step, METRICS)
            bar.say("a line that is much longer than the terminal is wide")
    assert "a line" in file.getvalue()


def test_notes_in_a_log_are_bounded() -> None:
    file = io.StringIO()
    with Progress(1, file=file) as bar:
        for number in range(10_000):
            bar.say(f"note {number}")
    lines = file.getvalue().splitlines()
    assert len(lines) == MOST_NOTES + 1
    assert lines[-1] == "further notes are not shown"
