"""The options that several commands of the suite share, and what they mean."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mixer_spec.errors import InputError

if TYPE_CHECKING:
    from .cases import Effort

Backend = Annotated[
    str, typer.Option(help="A registered name, or package.module:Class.", show_default=False)
]
Profile = Annotated[str, typer.Option(help="The arithmetic that the backend claims.")]
Level = Annotated[
    int,
    typer.Option(min=0, max=4, help="0 structure, 1 logits, 2 taps, 3 gradients, 4 optimiser."),
]
Scales = Annotated[str, typer.Option(help="Models or groups (mixer, Z1), separated by commas.")]
Families = Annotated[str, typer.Option(help="Families (F01,F05). Default: all.")]
Quick = Annotated[bool, typer.Option("--quick", help="Seconds; the default.")]
Full = Annotated[bool, typer.Option("--full", help="Minutes.")]
Nightly = Annotated[bool, typer.Option("--nightly", help="Every published variant.")]
Seed = Annotated[int, typer.Option(help="Of the weights and inputs.")]
Limit = Annotated[float | None, typer.Option(help="Seconds that one call of the backend may take.")]
Excuses = Annotated[Path | None, typer.Option(help="The backend's TOML file of known failures.")]
Junit = Annotated[Path | None, typer.Option(help="Write JUnit's XML here.")]
Markdown = Annotated[Path | None, typer.Option(help="Write a Markdown summary here.")]

Html = Annotated[Path | None, typer.Option(help="Write an HTML page here.")]


def listed(text: str) -> list[str]:
    """The names in a list with commas.

    Example:
        >>> listed("mixer, Z1,")
        ['mixer', 'Z1']
    """
    return [name.strip() for name in text.split(",") if name.strip()]


def chosen_effort(*, quick: bool, full: bool, nightly: bool) -> Effort:
    """The one that was asked for.

    Raises:
        InputError: if several were.
    """
    if quick + full + nightly > 1:
        raise InputError("effort", "expected one of --quick, --full and --nightly, got several")
    return "nightly" if nightly else "full" if full else "quick"
