"""The tables of docs/specification/, from the code: ``python -m mixer_conformance.document``.

Run it at the root of a checkout. It writes anew what stands between marks such as

    <!-- cases: begin -->
    <!-- cases: end -->

and ``docs/specification/zoo.json``, which has the spec of every small model of the zoo.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import get_args

from mixer_spec import layers
from mixer_spec._fields import field_types
from mixer_spec.errors import FileError, MixerSpecError
from mixer_spec.markdown import Tables, main
from mixer_spec.preprocess import PIPELINES

from .cases import CASES, ZOO, Case
from .cases.training import OPTIMISERS
from .precision import PRECISIONS

FOLDER = Path("docs", "specification")


def _rows(head: str, rows: Iterator[tuple[str, ...]]) -> str:
    columns = head.count("|") + 1
    lines = [f"| {head} |", "|" + " --- |" * columns]
    return "\n".join([*lines, *(f"| {' | '.join(row)} |" for row in rows)])


def _code(names: Sequence[str]) -> str:
    return ", ".join(f"`{name}`" for name in names)


# --- layer kinds -------------------------------------------------------------------------------

_PLACES = {
    "stem": layers.StemLayer,
    "embeddings": layers.EmbeddingLayer,
    "block": layers.Residual,
    "transition, or in another layer": layers.BranchLayer,
    "norm": layers.NormLayer,
    "pool": layers.PoolLayer,
    "head": layers.Head,
}
"""The fields of a spec to the layers that may stand there."""


def kinds(names: Sequence[str] = ()) -> str:
    """Every layer kind: where it may stand, its fields, and its name in a list."""

    def rows() -> Iterator[tuple[str, ...]]:
        for layer in get_args(layers.AnyLayer):
            places = [
                place
                for place, kinds in _PLACES.items()
                if layer is kinds or layer in get_args(kinds)
            ]
            label = f"`{layer.label}_{{n}}`" if layer.numbered else f"`{layer.label}`"
            if layer is layers.Residual:
                label = "its `name`"
            yield (
                f"`{layer.kind}`",
                "; ".join(places),
                _code([*field_types(layer)]) or "none",
                label if layer.label else "none",
            )

    return _rows("kind | stands in | fields | label", rows())


# --- the suite ---------------------------------------------------------------------------------


def zoo(names: Sequence[str] = ()) -> str:
    """The models that the suite judges with."""

    def rows() -> Iterator[tuple[str, ...]]:
        for model in ZOO.values():
            spec = model.build()
            yield (
                f"`{model.name}`",
                model.group,
                model.effort,
                f"{spec.parameter_count:,}",
                f"`{spec.fingerprint[:16]}`",
            )

    return _rows("model | group | from | weights | fingerprint begins with", rows())


def zoo_specs() -> str:
    """The specs of the models that are no published variants, one a line, as JSON."""
    lines = (
        f"{json.dumps(model.name)}: {model.build().to_json()}"
        for model in ZOO.values()
        if model.group not in ("Z4", "Z5")
    )
    return "{\n" + ",\n".join(lines) + "\n}\n"


def cases(names: Sequence[str] = ()) -> str:
    """The case families: level, profiles and models."""

    def rows() -> Iterator[tuple[str, ...]]:
        for case in CASES.values():
            profiles = [name for name in PRECISIONS if name not in case.profiles]
            quick = _code(case.quick) if case.quick else "the same"
            without = f"all but {_code(profiles)}" if profiles else "all"
            if len(profiles) > len(case.profiles):
                without = _code(case.profiles)
            yield case.id, str(case.level), without, _models(case), quick

    return _rows("case | level | profiles | models | in a quick run", rows())


def _models(case: Case) -> str:
    """The groups that a case is run on as a whole, and the single models."""
    groups: dict[str, list[str]] = {}
    for model in ZOO.values():
        groups.setdefault(model.group, []).append(model.name)
    found = []
    for group, members in groups.items():
        suited = [name for name in members if case.suits(ZOO[name], ZOO[name].build())]
        others = [name for name in members if name not in suited]
        if len(others) < len(suited):
            found.append(f"{group} without {_code(others)}" if others else group)
        else:
            found += [f"`{name}`" for name in suited]
    return "; ".join(found)


def optimisers(names: Sequence[str] = ()) -> str:
    """The optimisers that training steps are taken with, and how many steps."""

    def rows() -> Iterator[tuple[str, ...]]:
        for optimiser, steps in OPTIMISERS.values():
            kind, *values = optimiser.to_data().values()
            told = (
                f"{name} {json.dumps(value)}"
                for name, value in zip(field_types(type(optimiser)), values, strict=True)
            )
            yield f"`{kind}`", str(steps), ", ".join(told)

    return _rows("optimiser | steps | fields", rows())


def profiles(names: Sequence[str] = ()) -> str:
    """The arithmetics, as their emulation has them."""

    def power(value: float) -> str:
        return f"2^{round(math.log2(value))}" if value else "0"

    def rows() -> Iterator[tuple[str, ...]]:
        for name, precision in PRECISIONS.items():
            yield (
                f"`{name}`",
                precision.dtype.__name__,
                power(precision.unit),
                f"{precision.exact_operands}",
                power(precision.stored),
            )

    return _rows("profile | results | u | bits of an operand | s", rows())


def pipelines(names: Sequence[str] = ()) -> str:
    """The official pipelines: their preprocessing as JSON."""

    def rows() -> Iterator[tuple[str, ...]]:
        for name, preprocessing in PIPELINES.items():
            data = preprocessing.to_data()
            source = data.pop("source")
            yield f"`{name}`", f"`{json.dumps(data)}`", source

    return _rows("pipeline | preprocessing without its source | source", rows())


TABLES: Tables = {
    "kinds": kinds,
    "profiles": profiles,
    "pipelines": pipelines,
    "zoo": zoo,
    "cases": cases,
    "optimisers": optimisers,
}
"""The word in a mark to what makes the table."""


def write(folder: Path) -> None:
    """Write the tables of a folder's pages anew, and ``zoo.json``.

    Raises:
        FileError: if there is no such folder.
        InputError: if a mark in a page lacks its other half.
    """
    if not folder.is_dir():
        raise FileError(str(folder), "there is no such folder; run this at the root of a checkout")
    main([str(path) for path in sorted(folder.glob("*.md"))], TABLES)
    (folder / "zoo.json").write_text(zoo_specs(), encoding="utf-8")


if __name__ == "__main__":
    try:
        write(FOLDER)
    except MixerSpecError as error:
        sys.exit(f"error: {error}")
