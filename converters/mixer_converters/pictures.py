"""``mixer-spec pictures``: the paper's figures of weights, of any model file."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.markup import escape

from mixer_spec.atomic import replacing
from mixer_spec.commands.output import Json, console, print_json, table
from mixer_spec.errors import FileError, InputError
from mixer_spec.model_files import read_model
from mixer_spec.pictures import Units, as_png, as_svg, sheet, units


def pictures(
    model: Annotated[Path, typer.Argument(help="Model file of any layout.")],
    out: Annotated[Path, typer.Option(help="Folder for the pictures; made if it is not there.")],
    blocks: Annotated[str, typer.Option(help="Blocks, as 0,1,2, or all.")] = "0,1,2",
    most: Annotated[
        int | None, typer.Option("--units", min=1, help="Units of each layer. Default: all.")
    ] = None,
    columns: Annotated[int, typer.Option(min=2, help="Units side by side; even.")] = 16,
    scale: Annotated[int, typer.Option(min=1, max=64, help="Pixels a weight.")] = 4,
    form: Annotated[Literal["png", "svg"], typer.Option("--format", help="png or svg.")] = "png",
    json: Json = False,
) -> None:
    """Draw the weights of each token-mixing unit, lowest frequency first and in pairs; and the stem.

    Exit codes: 0 good, 2 bad input or a missing extra.
    """
    if columns % 2:
        raise InputError("--columns", f"must be even, so that pairs stay together, got {columns}")
    wanted = _blocks(blocks)
    file = read_model(model)
    drawn = []
    for shown in units(file.spec, file.weights):
        if _is_wanted(shown.name, wanted):
            pixels = sheet(shown, columns=columns, most=most)
            title = f"{model.name}: {shown.name}"
            data = as_png(pixels, scale) if form == "png" else as_svg(pixels, scale, title)
            drawn.append((shown, out / f"{shown.name.removesuffix('.kernel')}.{form}", data))
    if not drawn:
        raise InputError(
            "--blocks",
            f"there are none of these; expected some below {file.spec.depth}, got {blocks!r}",
        )
    try:
        out.mkdir(exist_ok=True)
    except OSError as error:
        raise FileError(str(out), f"cannot be made; {error.strerror}") from None
    for _, path, data in drawn:
        with replacing(path) as temporary:
            temporary.write_bytes(data)
    if json:
        print_json({"model": str(model), "pictures": [_describe(s, p, most) for s, p, _ in drawn]})
    else:
        _print([(shown, path) for shown, path, _ in drawn])


def _blocks(text: str) -> set[int] | None:
    """The numbers; ``None`` is all."""
    if text == "all":
        return None
    if not re.fullmatch(r"[0-9]+(,[0-9]+)*", text):
        raise InputError("--blocks", f"must be numbers; expected 0,1,2 or all, got {text!r}")
    return {int(number) for number in text.split(",")}


def _is_wanted(name: str, wanted: set[int] | None) -> bool:
    top, _, rest = name.partition(".")
    return wanted is None or top != "blocks" or int(rest.partition(".")[0]) in wanted


def _describe(shown: Units, path: Path, most: int | None) -> dict[str, object]:
    return {
        "kernel": shown.name,
        "file": str(path),
        "order": shown.order[:most].tolist(),
        "frequencies": [round(value, 6) for value in shown.frequencies[:most].tolist()],
    }


def _print(drawn: list[tuple[Units, Path]]) -> None:
    made = table("kernel", "units", "cycles", "picture", right=("units",), folding=("picture",))
    for shown, path in drawn:
        span = f"{shown.frequencies.min():.2f} to {shown.frequencies.max():.2f}"
        made.add_row(shown.name, str(len(shown.order)), span, escape(str(path)))
    console().print(made)
