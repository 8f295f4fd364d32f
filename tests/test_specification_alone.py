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

    def kernel(self, name: str, *shape: int, fan_in: int) -> Array:
        e = ((10837 * fan_in).bit_length() - 1) // 2
        return self.weights.setdefault(name, numbers(name, shape, 0.0, 127, e))

    def bias(self, name: str, size: int) -> Array:
        return self.weights.setdefault(name, numbers(name, (size,), 0.0, 127, 8))

    def norm(self, layer: dict[str, Any], path: str, x: Array) -> Array:
        size, centred = x.shape[-1], x - x.mean(-1, keepdims=True)
        scale = self.weights[f"{path}.scale"] = numbers(f"{path}.scale", (size,), 1.0, 32, 7)
        deviation = np.sqrt((centred**2).mean(-1, keepdims=True) + layer["epsilon"])
        return centred / deviation * scale + self.bias(f"{path}.bias", size)

    def branch(self, layers: list[dict[str, Any]], path: str, x: Array) -> Array:
        dense = 0
        for layer in layers:
            tokens, channels = x.shape[1:]
            match layer["kind"]:
                case "layer_norm":
                    x = self.norm(layer, f"{path}.norm", x)
                case "gelu":
                    assert layer["approximation"] == "tanh"
                    x = x / 2 * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))
                case "token_dense" | "channel_dense" as kind:
                    name, out = f"{path}.dense_{dense}", layer["features"]
                    dense += 1
                    if kind == "token_dense":
                        w = self.kernel(f"{name}.kernel", out, tokens, fan_in=tokens)
                        x = np.einsum("ts,bsc->btc", w, x) + self.bias(f"{name}.bias", out)[:, None]
                    else:
                        w = self.kernel(f"{name}.kernel", channels, out, fan_in=channels)
                        x = np.einsum("bsc,co->bso", x, w) + self.bias(f"{name}.bias", out)
        return x

    def forward(self, batch: int) -> Array:
        model, (ph, pw) = self.model, self.model["stem"]["patch"]
        height, width, rgb = (model["input"][side] for side in ("height", "width", "channels"))
        images = numbers("images", (batch, height, width, rgb), 0.0, 2**23 - 1, 23)
        features, classes = model["stem"]["features"], model["head"]["classes"]
        kernel = self.kernel("stem.kernel", ph, pw, rgb, features, fan_in=ph * pw * rgb)
        blocks = images.reshape(batch, height // ph, ph, width // pw, pw, rgb)
        x = np.einsum("brpcqk,pqkf->brcf", blocks, kernel).reshape(batch, -1, features)
        x = self.taps["stem"] = x + self.bias("stem.bias", features)
        (stage,) = model["stages"]
        for i in range(stage["depth"]):
            for residual in stage["block"]:
                path = f"blocks.{i}.{residual['name']}"
                x = self.taps[path] = x + self.branch(residual["layers"], path, x)
        x = self.taps["norm"] = self.norm(model["norm"], "norm", x)
        x = self.taps["pooled"] = x.mean(1)
        w = self.kernel("head.kernel", features, classes, fan_in=features)
        self.taps["logits"] = x @ w + self.bias("head.bias", classes)
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
