"""The command `ktotrain`: each verb is its options, one call into the library, and one translation of errors.

Nothing heavy is imported before a command runs, so that `--help` answers at once.
"""

from __future__ import annotations

import os
import shlex
import sys
from pathlib import Path
from typing import Any

import click

from ktotrain import __version__
from ktotrain.errors import StoppedError
from ktotrain.launch import (
    COMMAND,
    end_with_the_launcher,
    is_main_process,
    launch,
    let_the_first_speak,
    program_name,
    share_the_cores,
)
from ktotrain.redact import HIDDEN, is_secret_name, printable

INTERRUPTED = 130  # what shells report for a process that Ctrl-C ended: 128 + SIGINT


class _Errors(click.Group):
    """Turns an error that has an `exit_code` into one message on stderr, and Ctrl-C into exit code 130.

    The attribute, not the class, is what counts: rows are read by the other package, whose errors have it too.
    """

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except click.ClickException as error:
            error.message = printable(error.message)  # type: ignore[misc]  # it is no constant to click, either
            raise
        except (click.exceptions.Exit, click.Abort):
            raise
        except KeyboardInterrupt:
            click.echo("stopped", err=True)
            ctx.exit(INTERRUPTED)
        except MemoryError:
            let_the_first_speak()
            click.echo(f"{click.style('error:', fg='red', bold=True)} this machine's memory is not enough", err=True)
            ctx.exit(1)
        except Exception as error:
            code = getattr(error, "exit_code", None)
            if not isinstance(code, int):
                raise
            let_the_first_speak()
            click.echo(f"{click.style('error:', fg='red', bold=True)} {printable(error)}", err=True)
            ctx.exit(code)


def _check_overrides(ctx: click.Context, parameter: click.Parameter, values: tuple[str, ...]) -> tuple[str, ...]:
    for value in values:
        name, equals, _ = value.partition("=")
        if not equals or "." not in name:
            shown = f"{name}={HIDDEN}" if is_secret_name(name) else value
            raise click.BadParameter(f"{shown!r} is not TABLE.KEY=VALUE, such as optim.learning_rate=1e-5")
    return values


def _command(arguments: list[str]) -> str:
    """How the user would type this; a launcher of ours has left its own way of saying it in the environment."""
    launched = os.environ.get(COMMAND)
    if launched:
        processes, _, program = launched.partition(" ")
        return f"{program} {shlex.join([*arguments, '--processes', processes])}"
    if "RANK" in os.environ:
        return f"your launcher, and: -m ktotrain {shlex.join(arguments)}"
    return f"{program_name()} {shlex.join(arguments)}"


_recipe = click.argument("recipe", type=click.Path(path_type=Path))
_overrides = click.option(
    "--set",
    "overrides",
    multiple=True,
    metavar="TABLE.KEY=VALUE",
    callback=_check_overrides,
    help="Put a value over the recipe's; may be given many times.",
)


@click.group(cls=_Errors, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__, prog_name="ktotrain", message="%(prog)s %(version)s")
def main() -> None:
    """Train a language model on desirable and undesirable completions, by one TOML recipe.

    \b
    Example:
      ktotrain check recipe.toml
      ktotrain run recipe.toml --set train.output_dir=runs/second
    """


@main.command(short_help="Train as RECIPE says.")
@_recipe
@_overrides
@click.option("--dry-run", is_flag=True, help="Print the plan (steps, packs, tokens, class mix) and do not train.")
@click.option(
    "--processes",
    type=click.IntRange(1),
    default=1,
    metavar="N",
    help="Processes on this machine, one a GPU as a rule. The numbers stay the same.",
)
@click.option(
    "--accelerate-config",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="With --dry-run: plan for the processes that `accelerate launch --config_file FILE` starts.",
)
@click.option("--resume", is_flag=True, help="Go on from the newest whole checkpoint in train.output_dir.")
@click.option("--force", is_flag=True, help="With --resume: RECIPE may differ in keys that do not decide the numbers.")
@click.pass_context
def run(
    ctx: click.Context,
    recipe: Path,
    overrides: tuple[str, ...],
    dry_run: bool,
    processes: int,
    accelerate_config: Path | None,
    resume: bool,
    force: bool,
) -> None:
    """Train as RECIPE says, into its `train.output_dir`.

    Ctrl-C and SIGTERM end a run after the step it is at, with a checkpoint to go on from by --resume.

    \b
    Example:
      ktotrain run recipe.toml --set optim.learning_rate=1e-5 --set 'data.train=["a.jsonl", "b.jsonl"]'
      ktotrain run recipe.toml --resume
      accelerate launch --config_file fsdp2.yaml -m ktotrain run recipe.toml
    """
    if accelerate_config is not None and not dry_run:
        raise click.UsageError(
            f"--accelerate-config is for --dry-run. To train: accelerate launch --config_file {accelerate_config} "
            f"-m ktotrain run {recipe}"
        )
    if force and not resume:
        raise click.UsageError("--force says that the recipe of a resumed run may differ: give --resume too.")
    share_the_cores()
    from ktotrain.recipe import load_recipe

    # The recipe is checked before the trainer is imported, which takes seconds.
    checked = load_recipe(recipe, overrides)
    if processes > checked.train.batch_size:
        raise click.BadParameter(
            f"{processes} processes and {checked.train.batch_size} rows a step: some would have nothing to do",
            param_hint="--processes",
        )
    arguments = ["run", str(recipe), *(part for override in overrides for part in ("--set", override))]
    flags = [*["--resume"] * resume, *["--force"] * force]
    if processes > 1 and not dry_run:
        launch([*arguments, *flags], processes)
        return
    from ktotrain import trainer

    if dry_run:
        trainer.dry_run(checked, processes=processes, accelerate_config=accelerate_config)
        return
    end_with_the_launcher()
    try:
        result = trainer.run(checked, resume=resume, force=force)
    except StoppedError as stopped:
        if is_main_process():
            again = [*arguments, "--resume", *["--force"] * force] if stopped.resumable else [*arguments, *flags]
            click.echo(printable(f"{stopped.what}. Go on with: {_command(again)}"), err=True)
        let_the_first_speak()
        ctx.exit(stopped.exit_code)
    if result is not None and is_main_process():
        shown = ("loss", "rewards/margins", "rewards/auc")
        found = [f"{key} {result.evaluation[f'eval_{key}']:.4f}" for key in shown if f"eval_{key}" in result.evaluation]
        if found:
            click.echo(f"evaluation: {', '.join(found)}", err=True)
        click.echo(f"the trained model is in {result.output_dir / 'model'}; its README.md sums the run up", err=True)


@main.command(short_help="Check RECIPE and print it with all defaults filled in.")
@_recipe
@_overrides
def check(recipe: Path, overrides: tuple[str, ...]) -> None:
    """Check RECIPE and print it with all defaults filled in: TOML on stdout, fit to be a recipe again.

    Every error is shown, with its line. Models and data are not looked at; `ktotrain run --dry-run` does that.

    \b
    Example:
      ktotrain check recipe.toml --set adapter.rank=8 > resolved.toml
    """
    from ktotrain.recipe import load_recipe, recipe_to_toml

    click.echo(recipe_to_toml(load_recipe(recipe, overrides)), nl=False)
    click.echo(printable(f"{recipe} is valid"), err=True)


@main.command(short_help="Draw the plots of RUN_DIR again.")
@click.argument("run_dir", type=click.Path(path_type=Path))
def plot(run_dir: Path) -> None:
    """Draw the plots of RUN_DIR again, from its metrics.jsonl, into its folder plots; prints their names.

    \b
    Example:
      ktotrain plot runs/my-run
    """
    from ktotrain.plots import draw_plots

    for path in draw_plots(run_dir / "metrics.jsonl", run_dir / "plots"):
        click.echo(str(path))


if __name__ == "__main__":
    sys.exit(main())
