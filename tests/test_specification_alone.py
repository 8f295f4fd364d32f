"""A backend written from the text alone: a document in, logits out, and no word of mixer_spec.

Everything above the tests was written by reading docs/specification/ and nothing else. Where the
text left a question open, the text was mended.
"""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

CHAPTER = Path(__file__).parents[1] / "docs" / "specification" / "document.md"
(EXAMPLE,) = re.findall(r"^```json\n(.*?)^```$", CHAPTER.read_text(), re.DOTALL | re.MULTILINE)

Array = np.ndarray[Any, Any]


# --- weights.md: the counter hash -----------------------------------------------------------


def mix(z: Array) -> Array:
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


def numbers(name: str, shape: tuple[int, ...], centre: float, w: int, e: int) -> Array:
    h = 0xCBF29CE484222325
    for byte in name.encode():
        h = (h ^ byte) * 0x100000001B3 % 2**64
    key = mix(mix(np.zeros(1, np.uint64)) ^ np.uint64(h))
    counter = np.arange(1, np.prod(shape) + 1, dtype=np.uint64)
    drawn = mix(key + counter * np.uint64(0x9E3779B97F4A7C15)) % np.uint64(2 * w + 1)
    return (centre + (drawn.astype(np.float64) - w) * 2.0**-e).reshape(shape)


# --- layers.md and model.md -----------------------------------------------------------------


class Reader:
    """Walks a document, makes each weight where it is met, and computes."""

    def __init__(self, document: str) -> None:
        self.model = json.loads(document)
        self.weights: dict[str, Array] = {}
        self.taps: dict[str, Array] = {}

    def weight(self, name: str, *shape: int, fan_in: int = 0) -> Array:
        grid = (1.0, 32, 7) if name.endswith("scale") else (0.0, 127, 8)
        if fan_in:
            grid = 0.0, 127, ((10837 * fan_in).bit_length() - 1) // 2
        self.weights[name] = numbers(name, shape, *grid)
        return self.weights[name]

    def norm(self, layer: dict[str, Any], path: str, x: Array) -> Array:
        size, centred = x.shape[-1], x - x.mean(-1, keepdims=True)
        deviation = np.sqrt((centred**2).mean(-1, keepdims=True) + layer["epsilon"])
        scale = self.weight(f"{path}.scale", size)
        return centred / deviation * scale + self.weight(f"{path}.bias", size)

    def branch(self, layers: list[dict[str, Any]], path: str, x: Array) -> Array:
        dense = 0
        for layer in layers:
            if layer["kind"] == "layer_norm":
                x = self.norm(layer, f"{path}.norm", x)
            elif layer["kind"] == "gelu":
                x = x / 2 * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))
            else:
                (_, tokens, channels), out = x.shape, layer["features"]
                bias = self.weight(f"{path}.dense_{dense}.bias", out)
                name, dense = f"{path}.dense_{dense}.kernel", dense + 1
                if layer["kind"] == "token_dense":
                    x = self.weight(name, out, tokens, fan_in=tokens) @ x + bias[:, None]
                else:
                    x = x @ self.weight(name, channels, out, fan_in=channels) + bias
        return x

    def forward(self, batch: int) -> Array:
        model, (ph, pw) = self.model, self.model["stem"]["patch"]
        height, width, rgb = (model["input"][side] for side in ("height", "width", "channels"))
        images = numbers("images", (batch, height, width, rgb), 0.0, 2**23 - 1, 23)
        features, classes = model["stem"]["features"], model["head"]["classes"]
        kernel = self.weight("stem.kernel", ph, pw, rgb, features, fan_in=ph * pw * rgb)
        patches = images.reshape(batch, height // ph, ph, width // pw, pw, rgb)
        x = np.einsum("brpcqk,pqkf->brcf", patches, kernel).reshape(batch, -1, features)
        x = self.taps["stem"] = x + self.weight("stem.bias", features)
        for i in range(model["stages"][0]["depth"]):
            for residual in model["stages"][0]["block"]:
                path = f"blocks.{i}.{residual['name']}"
                x = self.taps[path] = x + self.branch(residual["layers"], path, x)
        self.taps["norm"] = self.norm(model["norm"], "norm", x)
        self.taps["pooled"] = self.taps["norm"].mean(1)
        w = self.weight("head.kernel", features, classes, fan_in=features)
        self.taps["logits"] = self.taps["pooled"] @ w + self.weight("head.bias", classes)
        return images

    def digest(self) -> str:
        total = hashlib.sha256()
        for name, array in sorted(self.weights.items()):
            total.update(f"{name}\0float32\0{','.join(map(str, array.shape))}\0".encode())
            total.update(array.astype("<f4").tobytes())
        return total.hexdigest()


# --- the judge ------------------------------------------------------------------------------


def agrees(read: str, meant: str) -> bool:
    """Whether a reader of one document computes every tap that the reference says of another."""
    from mixer_conformance import conformance_inputs, conformance_weights
    from mixer_spec import ModelSpec
    from mixer_spec.reference import forward
    from mixer_spec.weights import digest

    reader, spec = Reader(read), ModelSpec.from_json(meant)
    images, weights = reader.forward(batch=3), conformance_weights(spec)
    assert np.array_equal(images, conformance_inputs(spec, 3))
    assert reader.digest() == digest(weights)
    expected = forward(spec, weights, images, spec.taps)
    assert list(reader.taps) == list(spec.taps)
    return all(np.allclose(x, expected[tap], 1e-11, 1e-13) for tap, x in reader.taps.items())


@pytest.mark.parametrize("depth", [0, 2, 3])
def test_reader_of_the_text_computes_what_the_reference_does(depth: int) -> None:
    document = EXAMPLE.replace('"depth": 2', f'"depth": {depth}')
    assert agrees(document, document)


def test_reader_with_another_epsilon_is_found() -> None:
    assert not agrees(EXAMPLE.replace("1e-06", "2e-06"), EXAMPLE)
