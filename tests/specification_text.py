"""The chapters of the specification in docs/, run as the one program that they are."""

from __future__ import annotations

import functools
import re
from pathlib import Path
from typing import Any, get_args

import numpy as np

from mixer_conformance.cases import ZOO
from mixer_spec import ModelSpec
from mixer_spec.layers import AnyLayer, LayerScale

DOCS = Path(__file__).parents[1] / "docs"
INDEX = (DOCS / "specification.md").read_text(encoding="utf-8")
NAMES = ("specification.md", *re.findall(r"^\d\. \[.*?\]\((.*?)\)", INDEX, re.MULTILINE))
PAGES = {name: (DOCS / name).read_text(encoding="utf-8") for name in NAMES}

SMALL = [model.name for model in ZOO.values() if model.group in ("Z0", "Z1", "Z2")]
KINDS = {kind.kind: kind for kind in get_args(AnyLayer)}


@functools.cache
def spec_of(name: str) -> ModelSpec:
    return ZOO[name].build()


def run(pages: dict[str, str]) -> dict[str, Any]:
    """Every Python block of the chapters in order, in one namespace; asserts in it may fail."""
    names: dict[str, Any] = {}
    for name, page in pages.items():
        for block in re.finditer(r"^```python\n(.*?)^```$", page, re.DOTALL | re.MULTILINE):
            above = page.count("\n", 0, block.start(1))
            exec(compile("\n" * above + block[1], name, "exec"), names)  # noqa: S102 - our pages
    return names


def section(page: str, title: str) -> str:
    """What stands below a heading, up to the next of any depth."""
    return re.split(rf"^#+ {re.escape(title)}\n", page, flags=re.MULTILINE)[1].split("\n#")[0]


def rows(page: str, head: str) -> list[list[str]]:
    """The rows of the table whose first line begins with ``head``."""
    lines = page[page.index(f"| {head}") :].splitlines()
    table = lines[2 : next(i for i, line in enumerate(lines) if not line.startswith("|"))]
    return [[cell.strip() for cell in re.split(r"(?<!\\)\|", row)[1:-1]] for row in table]


def close(found: Any, expected: Any) -> bool:
    return np.allclose(np.array(found, float), expected, rtol=1e-11, atol=1e-12)


def text_weight(text: dict[str, Any], spec: ModelSpec, name: str) -> Any:
    (node,) = (
        n for n in spec.nodes() if name.startswith(f"{n.path}.") and name[len(n.path) + 1 :] in
        n.own_parameters
    )  # fmt: skip
    parameter = spec.parameters()[name]
    scale = isinstance(node.layer, LayerScale)
    flat = text["conformance_tensor"](0, name, parameter.size, parameter.fan_in, scale)
    return np.array(flat, np.float64).reshape(parameter.shape)
