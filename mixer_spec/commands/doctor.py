"""``mixer-spec doctor``: what is installed and whether it is fit to use."""

from __future__ import annotations

import dataclasses
import platform
from collections.abc import Sequence

import typer
from rich.markup import escape

from mixer_spec import __version__
from mixer_spec.doctor import Finding, complete_extras, examine_backends, examine_packages

from .output import Json, console, print_json, table

_STYLES = {"good": "green", "caution": "yellow", "bad": "bold red", "missing": "dim"}


def doctor(json: Json = False) -> None:
    """Show versions, extras and backends; exit with 1 if something installed is known to be bad."""
    packages, backends = examine_packages(), examine_backends()
    healthy = not any(finding.verdict == "bad" for finding in (*packages, *backends))
    system = {
        "mixer_spec": __version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
    }
    if json:
        print_json(
            {
                **system,
                "healthy": healthy,
                "extras": complete_extras(packages),
                "packages": [dataclasses.asdict(finding) for finding in packages],
                "backends": [dataclasses.asdict(finding) for finding in backends],
            }
        )
    else:
        out = console()
        for name, value in system.items():
            out.print(f"[bold]{name:<11}[/] {value}")
        installed = [name for name, complete in complete_extras(packages).items() if complete]
        out.print(f"[bold]{'extras':<11}[/] {', '.join(installed) or 'none'}\n")
        _print_findings("packages", packages)
        out.print()
        _print_findings("backends", backends)
    if not healthy:
        raise typer.Exit(1)


def _print_findings(title: str, findings: Sequence[Finding]) -> None:
    folding = ("version", "reason")
    made = table(title, "version", "extras", "verdict", "reason", folding=folding)
    for finding in findings:
        style = _STYLES[finding.verdict]
        made.add_row(
            finding.name,
            escape(finding.version or "-"),
            ", ".join(finding.extras),
            f"[{style}]{finding.verdict}[/]",
            escape(finding.reason),
        )
    console().print(made)
