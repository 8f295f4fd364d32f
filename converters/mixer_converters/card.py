"""The model card: README.md of a saved folder, made of what the weights file says about itself."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from mixer_spec.errors import InputError
from mixer_spec.layers import AnyLayer, DepthwiseConv, GatedUnit, Gelu, LayerNorm, Silu, TokenNorm
from mixer_spec.model import ModelSpec
from mixer_spec.preprocess import PIPELINES, Preprocessing
from mixer_spec.shapes import Image

from .metadata import Metadata

_FORMS = {"tanh": "GELU by the tanh approximation", "none": "GELU by erf, exact"}


def model_card(
    metadata: Metadata,
    name: str,
    *,
    license: str | None = None,
    verification: Mapping[str, Any] | None = None,
) -> str:
    """The card as Markdown with a YAML head, which the Hugging Face hub reads.

    Args:
        metadata: of the weights.
        name: what to call the model.
        license: of the weights, as the hub abbreviates it (``apache-2.0``).
        verification: what ``mixer_conformance.Report.to_data`` gives, or one of the ``reports`` of
            ``mixer-spec verify --json``.

    Raises:
        InputError: if the verification is no such report, or is of another spec.
    """
    parts = [
        *_head(metadata, license),
        f"# {name}",
        "",
        *_summary(metadata),
        *_section("Which function", _semantics(metadata.spec)),
        *_section("Preprocessing", _preprocessing(metadata)),
        *_section("Where the weights come from", _provenance(metadata)),
        *_section("Verification", _verification(metadata.spec, verification)),
        *_section("How to load it", _loading(metadata, name)),
    ]
    return "\n".join(parts)


def _section(title: str, lines: Iterator[str]) -> list[str]:
    return [f"## {title}", "", *lines, ""]


def _head(metadata: Metadata, license: str | None) -> Iterator[str]:
    """JSON strings are YAML strings."""
    yield "---"
    yield "library_name: mixer-spec"
    if isinstance(metadata.spec.input, Image):
        yield "pipeline_tag: image-classification"
    if license is not None:
        yield f"license: {json.dumps(license)}"
    yield "tags:"
    yield from (f"- {tag}" for tag in ("mixer-spec", "mlp-mixer", "safetensors"))
    yield "---"
    yield ""


def _summary(metadata: Metadata) -> Iterator[str]:
    spec = metadata.spec
    stages = " + ".join(str(stage.depth) for stage in spec.stages)
    branches = list(dict.fromkeys(r.name for stage in spec.stages for r in stage.block))
    rows = {
        "architecture": f"`{metadata.variant}`" if metadata.variant else "of its own",
        "input": str(spec.input),
        "blocks": f"{stages}, each {' + '.join(f'`{branch}`' for branch in branches)}",
        "classes": f"{spec.classes}{'' if metadata.labels is None else ', with labels'}",
        "parameters": f"{spec.parameter_count:,}",
        "GFLOPs": f"{2e-9 * spec.multiply_adds:.3f} for one input",
        "fingerprint of the spec": f"`{spec.fingerprint}`",
        "digest of the weights": f"`{metadata.weights_digest}`",
    }
    yield "| | |"
    yield "| :-- | :-- |"
    yield from (f"| {key} | {_cell(value)} |" for key, value in rows.items())
    yield ""


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


def _semantics(spec: ModelSpec) -> Iterator[str]:
    """What the shapes of weights do not show."""
    yield "What names and shapes of weights do not tell, and `config.json` does:"
    yield ""
    facts: dict[str, list[str]] = {}
    for node in spec.nodes():
        fact = _fact(node.layer)
        if fact is not None:
            facts.setdefault(fact, []).append(node.path)
    for fact, paths in facts.items():
        places = "place" if len(paths) == 1 else "places"
        yield f"- {fact}: {len(paths)} {places}, the first `{paths[0]}`"
    yield "- the tokens of an image in row-major order; a patch's pixels in (row, column, rgb) order"


def _fact(layer: AnyLayer) -> str | None:
    match layer:
        case Gelu(approximation=form):
            return _FORMS[form]
        case Silu():
            return "SiLU"
        case LayerNorm(epsilon=epsilon):
            return f"LayerNorm with epsilon {epsilon:g}"
        case TokenNorm(epsilon=epsilon):
            return f"normalisation over the tokens with epsilon {epsilon:g}"
        case GatedUnit(gate=half):
            return f"gated by the {half} half"
        case DepthwiseConv(window=(height, width)):
            return f"{height} x {width} convolution with zeros around the grid"
    return None


def _preprocessing(metadata: Metadata) -> Iterator[str]:
    told = metadata.preprocessing
    if told is None:
        yield "Not known; it changes every logit. Ask whoever trained the weights."
        return
    yield f"{_pipeline(told)} Source: {told.source}."
    yield ""
    yield "```json"
    yield json.dumps(told.to_data(), indent=2)
    yield "```"


def _pipeline(told: Preprocessing) -> str:
    name = next((name for name, known in PIPELINES.items() if known == told), None)
    return "A pipeline of its own." if name is None else f"The pipeline `{name}`."


def _provenance(metadata: Metadata) -> Iterator[str]:
    if not metadata.provenance:
        yield "Not recorded."
    for key, value in metadata.provenance.items():
        yield f"- {key}: {_cell(value)}"


def _verification(spec: ModelSpec, report: Mapping[str, Any] | None) -> Iterator[str]:
    if report is None:
        yield "None is recorded. `mixer-spec verify FOLDER` compares every installed framework with"
        yield "the float64 reference, tap by tap."
        return
    backends = report.get("backends")
    if not isinstance(backends, Sequence) or "fingerprint" not in report:
        raise InputError(
            "verification",
            f"must be what Report.to_data() gives; expected 'fingerprint' and 'backends', "
            f"got {sorted(report)}",
        )
    if report["fingerprint"] != spec.fingerprint:
        raise InputError(
            "verification",
            f"is of another spec; expected fingerprint {spec.fingerprint}, "
            f"got {report['fingerprint']}",
        )
    yield "Every tap in float32 against the float64 reference; a margin of 1 would just pass."
    yield ""
    yield "| backend | versions | verdict | worst margin | at |"
    yield "| :-- | :-- | :-- | --: | :-- |"
    for backend in backends:
        versions = ", ".join(f"{name} {number}" for name, number in backend["versions"].items())
        margin = "-" if backend["margin"] is None else f"{backend['margin']:.3f}"
        verdict = "conformant" if backend["conformant"] else "**not conformant**"
        cells = (backend["name"], versions, verdict, margin, f"`{backend['worst_tap']}`")
        yield f"| {' | '.join(_cell(cell) for cell in cells)} |"


def _loading(metadata: Metadata, name: str) -> Iterator[str]:
    spec = metadata.spec
    size = ""
    if isinstance(spec.input, Image):
        size = f"({spec.input.height}, {spec.input.width})"
    axes = ", ".join(("batch", *spec.input.axes))
    yield "```python"
    yield "from mixer_converters import from_pretrained"
    yield ""
    yield f"model = from_pretrained({json.dumps(name)})  # this folder, or owner/name on the hub"
    yield "model.check_digest()"
    if metadata.preprocessing is not None and size:
        yield ""
        yield "from mixer_spec.preprocess import preprocess"
        yield ""
        yield f'inputs = preprocess("photo.jpg", model.preprocessing, {size})[None]  # [{axes}]'
    yield "```"
    yield ""
    yield "PyTorch, as an `nn.Module`" + (" that takes `[batch, rgb, height, width]`:" * bool(size))
    yield ""
    yield "```python"
    yield "import mixer_torch"
    yield "import torch"
    yield ""
    yield "module = mixer_torch.build(model.spec, model.weights).eval()"
    images = ".movedim(-1, 1)" if size else ""
    yield f"logits = module(torch.from_numpy(inputs){images})"
    yield "```"
    yield ""
    yield "JAX, as pure functions:"
    yield ""
    yield "```python"
    yield "import mixer_jax"
    yield ""
    yield "parameters = mixer_jax.from_canonical(model.weights)"
    yield "logits = mixer_jax.apply(model.spec, parameters, inputs)"
    yield "```"
    yield ""
    yield "ONNX Runtime (`mixer-spec export model.safetensors` writes the graph to a file):"
    yield ""
    yield "```python"
    yield "from mixer_spec import load_backend"
    yield ""
    yield 'session = load_backend("onnxruntime").load(model.spec, model.weights)'
    yield 'logits = session.forward(inputs)["logits"]'
    yield "```"
