"""``mixer-spec plan``: memory, time and input of a training, before a chip is rented."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.markup import escape

from mixer_spec.errors import InputError

from .output import Json, console, print_json, table

if TYPE_CHECKING:
    from mixer_spec.hardware import Hardware
    from mixer_spec.plan import Plan

_ROOM_FOR_FORMULAS = 110  # columns of a terminal
_DIGITS = {"GB": 2, "ms": 1, "h": 1, "cores": 1, "images/s": 0, "GFLOP": 1}


def plan(
    model: Annotated[str, typer.Option(help="A variant's name, or a spec file (.json).")],
    hardware: Annotated[str, typer.Option(help="v5e, v5p, v6e, a100, h100 or h200.")],
    chips: Annotated[int, typer.Option(min=1, help="How many.")] = 1,
    recipe: Annotated[
        str | None,
        typer.Option(help="A recipe's name, or a file (.json). Default: the model's first."),
    ] = None,
    change: Annotated[
        list[str] | None,
        typer.Option("--set", help="Another value in the recipe: place=value, as batch=1024."),
    ] = None,
    image_size: Annotated[
        str | None, typer.Option(help="Pixels of a side, or HxW. Default: the recipe's.")
    ] = None,
    parameters: Annotated[
        Literal["replicated", "sharded"],
        typer.Option(help="Weights whole on every chip, or spread over them."),
    ] = "replicated",
    measure: Annotated[
        bool, typer.Option(help="Measure here what preparing an image costs.")
    ] = True,
    json: Json = False,
) -> None:
    """Plan a training by formulas; says of each figure what it rests on.

    Exit codes: 0 it fits, 1 it does not fit into the memory, 2 bad input.
    """
    from mixer_spec.hardware import hardware as find_hardware
    from mixer_spec.input_cost import measure_input
    from mixer_spec.plan import plan as make
    from mixer_spec.variants import variant

    from .architecture import find_architecture
    from .train import find_recipe

    chip = find_hardware(hardware)
    name = recipe or _first_recipe(variant(model).name if not model.endswith(".json") else None)
    settings = find_recipe(name, change or ())
    height, width = settings.data.image_size
    if model.endswith(".json"):
        spec, _ = find_architecture(model, image_size=image_size)
    else:
        spec, _ = find_architecture(model, image_size=image_size or f"{height}x{width}")
    milliseconds = None
    if measure:
        try:
            milliseconds = measure_input(settings)
        except InputError:
            milliseconds = None  # a recipe for images of one size, not for photos
    found = make(
        spec, settings, chip, chips=chips, parameters=parameters, milliseconds=milliseconds
    )
    if json:
        print_json(
            {
                "model": model,
                "recipe": name,
                "batch": settings.batch,
                "hardware": {"name": hardware, "chips": chips, **dataclasses.asdict(chip)},
                "parameters": parameters,
                "figures": [dataclasses.asdict(figure) for figure in found.figures],
                "needed_gb": found.needed,
                "capacity_gb": found.capacity,
                "fits": found.fits,
            }
        )
    else:
        _print(found, f"{model} by {name}, batch {settings.batch}", f"{chips} x {hardware}", chip)
    if not found.fits:
        raise typer.Exit(1)


def _first_recipe(variant: str | None) -> str:
    """The name of the first recipe that was published for a variant; of ImageNet for others."""
    from mixer_spec.recipes import RECIPES

    return next((name for name, named in RECIPES.items() if named.model == variant), "mixer_b_i1k")


def _print(found: Plan, what: str, where: str, chip: Hardware) -> None:
    out = console()
    formulas = ("how",) if out.width >= _ROOM_FOR_FORMULAS else ()
    headings = ("", "figure", "value", "unit", "rests on", *formulas)
    made = table(*headings, right=("value",), folding=formulas)
    part = None
    for figure in found.figures:
        if figure.part != part and part is not None:
            made.add_section()
        value = f"{figure.value:,.{_DIGITS[figure.unit]}f}"
        heading = figure.part if figure.part != part else ""
        how = [escape(figure.how) for _ in formulas]
        made.add_row(heading, figure.name, value, figure.unit, figure.basis, *how)
        part = figure.part
    out.print(f"[bold]{escape(what)}[/], on {escape(where)}\n")
    out.print(made)
    if not formulas:
        out.print("\nthe formula of each figure: a wider terminal, or --json", soft_wrap=True)
    verdict = "[green]fits[/]" if found.fits else "[bold red]does not fit[/]"
    out.print(
        f"\n{verdict}: {found.needed:.2f} of {found.capacity:g} GB on each chip, without what the "
        "compiler needs for itself",
        soft_wrap=True,
    )
    if not found.fits:
        out.print(
            "to save memory: --parameters sharded, --set rematerialise=blocks, "
            "--set accumulation=2, or more chips",
            soft_wrap=True,
        )
    out.print(
        f"planned, not measured, on this hardware: the chip's figures are from {chip.source}; "
        "published trainings of Mixers reached 46% and 57% of the peak",
        soft_wrap=True,
    )
