"""The options that several commands share, and what they mean."""

from __future__ import annotations

from typing import Annotated

import typer

VariantName = Annotated[str, typer.Argument(help="A variant's name, or a spec file (.json).")]
ImageSize = Annotated[str | None, typer.Option(help="Pixels of a side, or HxW. Default: 224.")]
Classes = Annotated[int | None, typer.Option(help="Number of logits. Default: 1000.")]
Data = Annotated[
    str, typer.Option(help="digits, or a path; or kind:place with folder, npz, fashion-mnist, ...")
]
Backend = Annotated[str, typer.Option(help="A registered name, or package.module:Class.")]
Pipeline = Annotated[
    str | None, typer.Option(help="An official pipeline's name. Default: what the file says.")
]
