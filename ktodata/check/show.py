"""A report for people, in a terminal or as one page, and for programs."""

from __future__ import annotations

import dataclasses
import json
from importlib import resources
from typing import Any

from ktodata import __version__
from ktodata.check.finding import Finding, Report

STYLES = {"pass": "green", "skipped": "dim", "warn": "yellow", "fail": "bold red"}


def as_json(report: Report) -> str:
    """`source`, `rows`, `verdict`, and `checks`: each with `name`, `verdict`, `said`, `figures`, `examples`, `do`."""
    return json.dumps(facts(report), indent=2, ensure_ascii=False)


def facts(report: Report) -> dict[str, Any]:
    """The report as plain data."""
    return {
        "made_by": f"ktokit {__version__}",
        "source": report.source,
        "rows": report.rows,
        "verdict": report.verdict,
        "checks": [{**dataclasses.asdict(one), "examples": list(one.examples)} for one in report.findings],
    }


def as_table(report: Report, width: int | None = None) -> str:
    """A table, with colours on a terminal, and below it what to do and where."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console(width=width, highlight=False)
    table = Table(title=f"{report.source}: {report.rows} rows", title_justify="left")
    table.add_column("check", no_wrap=True)
    table.add_column("verdict")
    table.add_column("what was found")
    for finding in report.findings:
        # Text, not markup: whatever stands in brackets in a row is to be shown.
        table.add_row(Text(finding.name), Text(finding.verdict, STYLES[finding.verdict]), Text(finding.said))
    with console.capture() as captured:
        console.print(table)
        for finding in report.findings:
            if finding.verdict in ("warn", "fail"):
                for line in _details(finding):
                    console.print(Text(line))
        console.print(Text(f"verdict: {report.verdict}", STYLES[report.verdict]))
    return captured.get()


def _details(finding: Finding) -> list[str]:
    return [f"{finding.name}: {finding.do}" if finding.do else finding.name, *(f"  {one}" for one in finding.examples)]


def as_page(report: Report) -> str:
    """One self-contained HTML page; whatever comes from rows is escaped."""
    import jinja2

    text = resources.files("ktodata.check").joinpath("page.html.jinja").read_text(encoding="utf-8")
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True)
    return environment.from_string(text).render(report=report, version=__version__, figures=_figures)


def _figures(finding: Finding) -> str:
    return json.dumps(finding.figures, indent=1, ensure_ascii=False) if finding.figures else ""
