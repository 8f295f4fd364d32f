"""The reference against the papers' equations in 40-digit arithmetic, written down a second time.

Nothing here uses the reference, the spec's unfolding or NumPy's linear algebra: tables are lists
of lists of mpmath numbers, and every model is its paper's equation, spelled out.
"""

from __future__ import annotations

import itertools

import mpmath as mp
import numpy as np
import pytest

from mixer_spec import ablations, families
from mixer_spec.layers import Affine
from mixer_spec.reference import Arithmetic, forward
from mixer_spec.shapes import TokenIds

mp.mp.dps = 40

Table = list[list[mp.mpf]]


def exact(array: np.ndarray) -> list:
    return [mp.mpf(float(v)) for v in array] if array.ndim == 1 else [exact(row) for row in array]


def product(a: Table, b: Table) -> Table:
    columns = list(zip(*b, strict=True))
    return [[mp.fdot(zip(row, column, strict=True)) for column in columns] for row in a]


def add(a: Table, b: Table) -> Table:
    return [[x + y for x, y in zip(r, s, strict=True)] for r, s in zip(a, b, strict=True)]


def multiply(a: Table, b: Table) -> Table:
    return [[x * y for x, y in zip(r, s, strict=True)] for r, s in zip(a, b, strict=True)]


def each(function, table: Table) -> Table:
    return [[function(x) for x in row] for row in table]


def gelu_tanh(x):
    return x / 2 * (1 + mp.tanh(mp.sqrt(2 / mp.pi) * (x + mp.mpf("0.044715") * x**3)))


def gelu_erf(x):
    return x * mp.ncdf(x)


def silu(x):
    return x / (1 + mp.exp(-x))


class Written:
    """The papers' layers over one model's weights, addressed by canonical name."""

    def __init__(self, weights: dict[str, np.ndarray]) -> None:
        self.weights = {name: exact(array) for name, array in weights.items()}

    def channel_dense(self, x: Table, name: str) -> Table:
        rows = product(x, self.weights[f"{name}.kernel"])
        bias = self.weights[f"{name}.bias"]
        return [[v + b for v, b in zip(row, bias, strict=True)] for row in rows]

    def token_dense(self, x: Table, name: str) -> Table:
        rows = product(self.weights[f"{name}.kernel"], x)
        bias = self.weights[f"{name}.bias"]
        return [[v + b for v in row] for row, b in zip(rows, bias, strict=True)]

    def layer_norm(self, x: Table, name: str, epsilon: str = "1e-6") -> Table:
        found = []
        for row in x:
            mean = mp.fsum(row) / len(row)
            variance = mp.fsum((v - mean) ** 2 for v in row) / len(row)
            root = mp.sqrt(variance + mp.mpf(epsilon))
            found.append([(v - mean) / root for v in row])
        return self.affine(found, name)

    def affine(self, x: Table, name: str) -> Table:
        scale, bias = self.weights[f"{name}.scale"], self.weights[f"{name}.bias"]
        return [[v * s + b for v, s, b in zip(row, scale, bias, strict=True)] for row in x]

    def layer_scale(self, x: Table, name: str) -> Table:
        scale = self.weights[f"{name}.scale.scale"]
        return [[v * s for v, s in zip(row, scale, strict=True)] for row in x]

    def stem(self, image: np.ndarray, patch: int) -> Table:
        """Tokens row by row; in a patch row by row, pixel by pixel, red, green, blue."""
        kernel = np.array(self.weights["stem.kernel"], dtype=object)
        matrix = kernel.reshape(-1, kernel.shape[-1]).tolist()
        tokens = []
        for top in range(0, image.shape[0], patch):
            for left in range(0, image.shape[1], patch):
                pixels = [
                    mp.mpf(float(image[top + i, left + j, c]))
                    for i in range(patch)
                    for j in range(patch)
                    for c in range(3)
                ]
                row = product([pixels], matrix)[0]
                tokens.append([v + b for v, b in zip(row, self.weights["stem.bias"], strict=True)])
        return tokens

    def head(self, features: list) -> list:
        return self.channel_dense([features], "head")[0]


def mean_of_tokens(x: Table) -> list:
    return [mp.fsum(column) / len(x) for column in zip(*x, strict=True)]


def transposed(x: Table) -> Table:
    return [list(column) for column in zip(*x, strict=True)]


def written_mixer(
    w: Written, image: np.ndarray, depth: int, gelu=gelu_tanh, token_dense=None, tokens=None
) -> list:
    x = tokens or w.stem(image, 2)
    for i in range(depth):
        for branch, dense in (
            (f"blocks.{i}.token_mixing", token_dense or w.token_dense),
            (f"blocks.{i}.channel_mixing", w.channel_dense),
        ):
            hidden = each(gelu, dense(w.layer_norm(x, f"{branch}.norm"), f"{branch}.dense_0"))
            x = add(x, dense(hidden, f"{branch}.dense_1"))
    return w.head(mean_of_tokens(w.layer_norm(x, "norm")))


def written_resmlp(w: Written, image: np.ndarray, depth: int) -> list:
    x = w.stem(image, 2)
    for i in range(depth):
        t, c = f"blocks.{i}.token_mixing", f"blocks.{i}.channel_mixing"
        x = add(x, w.layer_scale(w.token_dense(w.affine(x, f"{t}.norm"), f"{t}.dense_0"), t))
        hidden = each(gelu_erf, w.channel_dense(w.affine(x, f"{c}.norm"), f"{c}.dense_0"))
        x = add(x, w.layer_scale(w.channel_dense(hidden, f"{c}.dense_1"), c))
    return w.head(mean_of_tokens(w.affine(x, "norm")))


def written_gmlp(w: Written, image: np.ndarray, depth: int) -> list:
    x = w.stem(image, 2)
    for i in range(depth):
        g = f"blocks.{i}.gated_mixing"
        z = each(gelu_erf, w.channel_dense(w.layer_norm(x, f"{g}.norm"), f"{g}.dense_0"))
        half = len(z[0]) // 2
        u, v = [row[:half] for row in z], [row[half:] for row in z]
        gate = w.token_dense(w.layer_norm(v, f"{g}.gate.norm", "1e-5"), f"{g}.gate.dense_0")
        x = add(x, w.channel_dense(multiply(u, gate), f"{g}.dense_1"))
    return w.head(mean_of_tokens(w.layer_norm(x, "norm")))


def written_gmixer(w: Written, image: np.ndarray, depth: int) -> list:
    x = w.stem(image, 2)
    for i in range(depth):
        t, c = f"blocks.{i}.token_mixing", f"blocks.{i}.channel_mixing"
        z = w.token_dense(w.layer_norm(x, f"{t}.norm"), f"{t}.dense_0")
        gated = multiply(z[: len(z) // 2], each(silu, z[len(z) // 2 :]))
        x = add(x, w.token_dense(gated, f"{t}.dense_1"))
        z = w.channel_dense(w.layer_norm(x, f"{c}.norm"), f"{c}.dense_0")
        half = len(z[0]) // 2
        gated = multiply([r[:half] for r in z], each(silu, [r[half:] for r in z]))
        x = add(x, w.channel_dense(gated, f"{c}.dense_1"))
    return w.head(mean_of_tokens(w.layer_norm(x, "norm")))


def written_vit(w: Written, image: np.ndarray, depth: int, heads: int) -> list:
    x = [w.weights["stem.class_token.embedding"][0], *w.stem(image, 2)]
    x = add(x, w.weights["stem.position.embedding"])
    size = len(x[0]) // heads
    for i in range(depth):
        t, c = f"blocks.{i}.token_mixing", f"blocks.{i}.channel_mixing"
        y = w.layer_norm(x, f"{t}.norm")
        q, k, v = (w.channel_dense(y, f"{t}.attention.{n}") for n in ("query", "key", "value"))
        mixed: Table = [[] for _ in x]
        for h in range(heads):
            own = slice(h * size, (h + 1) * size)
            for a, query in enumerate(q):
                scores = [
                    mp.fdot(zip(query[own], key[own], strict=True)) / mp.sqrt(size) for key in k
                ]
                powers = [mp.exp(score) for score in scores]
                total = mp.fsum(powers)
                for channel in range(h * size, (h + 1) * size):
                    terms = (p * row[channel] for p, row in zip(powers, v, strict=True))
                    mixed[a].append(mp.fsum(terms) / total)
        x = add(x, w.channel_dense(mixed, f"{t}.attention.out"))
        hidden = each(gelu_tanh, w.channel_dense(w.layer_norm(x, f"{c}.norm"), f"{c}.dense_0"))
        x = add(x, w.channel_dense(hidden, f"{c}.dense_1"))
    return w.head(w.layer_norm(x, "norm")[0])


def written_feed_forward(w: Written, image: np.ndarray, depth: int) -> list:
    x = [w.weights["stem.class_token.embedding"][0], *w.stem(image, 2)]
    x = add(x, w.weights["stem.position.embedding"])
    for i in range(depth):
        t, c = f"blocks.{i}.token_mixing", f"blocks.{i}.channel_mixing"
        hidden = each(gelu_erf, w.channel_dense(w.layer_norm(x, f"{c}.norm"), f"{c}.dense_0"))
        x = add(x, w.channel_dense(hidden, f"{c}.dense_1"))
        normed = transposed(w.layer_norm(transposed(x), f"{t}.norm"))
        hidden = each(gelu_erf, w.token_dense(normed, f"{t}.dense_0"))
        x = add(x, w.token_dense(hidden, f"{t}.dense_1"))
    return w.head(w.layer_norm(x, "norm")[0])


def written_untied(w: Written, image: np.ndarray, depth: int) -> list:
    def dense(x: Table, name: str) -> Table:
        kernel, bias = w.weights[f"{name}.kernel"], w.weights[f"{name}.bias"]
        columns = [
            [mp.fdot(zip(row, column, strict=True)) + b for row, b in zip(k, own, strict=True)]
            for k, own, column in zip(kernel, bias, transposed(x), strict=True)
        ]
        return transposed(columns)

    return written_mixer(w, image, depth, token_dense=dense)


def written_grouped(w: Written, image: np.ndarray, depth: int, groups: int) -> list:
    """Views of the channels, then neighbouring channels one behind the other in a column."""
    x = w.stem(image, 2)
    for i in range(depth):
        t, c = f"blocks.{i}.token_mixing", f"blocks.{i}.channel_mixing"
        seen = transposed(w.channel_dense(w.layer_norm(x, f"{t}.norm"), f"{t}.dense_0"))
        starts = range(0, len(seen), groups)
        together = [list(itertools.chain(*seen[j : j + groups])) for j in starts]
        hidden = each(gelu_tanh, w.token_dense(transposed(together), f"{t}.dense_1"))
        mixed = transposed(w.token_dense(hidden, f"{t}.dense_2"))
        apart = [col[g * len(x) : (g + 1) * len(x)] for col in mixed for g in range(groups)]
        x = add(x, transposed(apart))
        hidden = each(gelu_tanh, w.channel_dense(w.layer_norm(x, f"{c}.norm"), f"{c}.dense_0"))
        x = add(x, w.channel_dense(hidden, f"{c}.dense_1"))
    return w.head(mean_of_tokens(w.layer_norm(x, "norm")))


def written_conv(w: Written, image: np.ndarray, depth: int, rows: int, columns: int) -> list:
    """ResMLP whose tokens are mixed by a 3 x 3 convolution and a linear map of the channels."""
    x = w.stem(image, 2)
    for i in range(depth):
        t, c = f"blocks.{i}.token_mixing", f"blocks.{i}.channel_mixing"
        y = w.affine(x, f"{t}.norm")
        kernel, bias = w.weights[f"{t}.conv.kernel"], w.weights[f"{t}.conv.bias"]
        convolved: Table = []
        for r in range(rows):
            for col in range(columns):
                convolved.append(list(bias))
                for dr in (-1, 0, 1):
                    for dc in (-1, 0, 1):
                        if 0 <= r + dr < rows and 0 <= col + dc < columns:
                            near = y[(r + dr) * columns + col + dc]
                            products = map(mp.fmul, kernel[dr + 1][dc + 1], near)
                            convolved[-1] = list(map(mp.fadd, convolved[-1], products))
        x = add(x, w.layer_scale(w.channel_dense(convolved, f"{t}.dense_0"), t))
        hidden = each(gelu_erf, w.channel_dense(w.affine(x, f"{c}.norm"), f"{c}.dense_0"))
        x = add(x, w.layer_scale(w.channel_dense(hidden, f"{c}.dense_1"), c))
    return w.head(mean_of_tokens(w.affine(x, "norm")))


def written_sequence(w: Written, ids: np.ndarray, depth: int) -> list:
    words = [w.weights["stem.embedding"][i] for i in ids.tolist()]
    return written_mixer(w, ids, depth, tokens=words)


# Two patches high and three wide, so that rows and columns cannot be confused.
SIZE = {"image_size": (4, 6), "patch": 2, "depth": 2, "classes": 3}

CASES = {
    "mixer": (
        families.mixer(**SIZE, channels=4, token_hidden=5, channel_hidden=7),
        lambda w, image: written_mixer(w, image, 2),
    ),
    "mixer with erf": (
        families.mixer(**SIZE, channels=4, token_hidden=5, channel_hidden=7, gelu="none"),
        lambda w, image: written_mixer(w, image, 2, gelu_erf),
    ),
    "resmlp": (families.resmlp(**SIZE, channels=4), lambda w, image: written_resmlp(w, image, 2)),
    "gmlp": (families.gmlp(**SIZE, channels=4), lambda w, image: written_gmlp(w, image, 2)),
    "gmixer": (
        families.gmixer(**SIZE, channels=4, token_hidden=6, channel_hidden=10),
        lambda w, image: written_gmixer(w, image, 2),
    ),
    "vit": (
        families.vit(**SIZE, channels=6, heads=2, channel_hidden=9),
        lambda w, image: written_vit(w, image, 2, heads=2),
    ),
    "feed-forward only": (
        families.feed_forward(**SIZE, channels=4),
        lambda w, image: written_feed_forward(w, image, 2),
    ),
    "untied": (
        ablations.mixer_untied(**SIZE, channels=4, token_hidden=5, channel_hidden=7),
        lambda w, image: written_untied(w, image, 2),
    ),
    "views": (
        ablations.mixer_grouped(
            **SIZE, channels=6, token_hidden=5, channel_hidden=7, groups=3, views=True
        ),
        lambda w, image: written_grouped(w, image, 2, groups=3),
    ),
    "separable convolution": (
        ablations.resmlp_ablation(**SIZE, channels=4, mixing="separable_conv", norm=Affine()),
        lambda w, image: written_conv(w, image, 2, rows=2, columns=3),
    ),
    "words": (
        families.sequence_mixer(
            input=TokenIds(tokens=5, vocabulary=9),
            channels=4,
            depth=2,
            token_hidden=3,
            channel_hidden=7,
            classes=3,
        ),
        lambda w, ids: written_sequence(w, ids, 2),
    ),
}


def drawn(spec, seed: int) -> dict[str, np.ndarray]:
    """Weights without a zero or a symmetry anywhere."""
    generator = np.random.default_rng(seed)
    return {
        name: generator.normal(0.1, 0.6, parameter.shape)
        for name, parameter in spec.parameters().items()
    }


def given(spec) -> np.ndarray:
    """One input: normal values, or ids of words."""
    generator = np.random.default_rng(2)
    if isinstance(spec.input, TokenIds):
        return generator.integers(spec.input.vocabulary, size=spec.input.tokens)
    return generator.normal(size=spec.input.shape)


def relative_error(found: np.ndarray, expected: list) -> float:
    worst = max(abs(mp.mpf(float(a)) - b) for a, b in zip(found, expected, strict=True))
    return float(worst / max(abs(b) for b in expected))


@pytest.mark.parametrize("name", CASES)
def test_reference_agrees_with_the_papers_equation_in_forty_digits(name):
    spec, written = CASES[name]
    weights = drawn(spec, seed=1)
    image = given(spec)
    expected = written(Written(weights), image)
    in_float64 = forward(spec, weights, image[None])["logits"][0]
    assert relative_error(in_float64, expected) < 1e-13
    single = {key: value.astype(np.float32) for key, value in weights.items()}
    image = image if image.dtype == np.int64 else image.astype(np.float32)
    rounded = written(Written(single), image)
    in_float32 = forward(spec, single, image[None], arithmetic=Arithmetic(np.float32))
    assert 1e-9 < relative_error(in_float32["logits"][0], rounded) < 3e-6


def test_the_comparison_rejects_a_wrong_gelu():
    spec, _ = CASES["mixer"]
    weights = drawn(spec, seed=1)
    image = np.random.default_rng(2).normal(size=spec.input.shape)
    wrong = written_mixer(Written(weights), image, 2, gelu_erf)
    assert relative_error(forward(spec, weights, image[None])["logits"][0], wrong) > 1e-6


def test_the_comparison_rejects_a_wrong_epsilon():
    spec, _ = CASES["gmlp"]
    weights = drawn(spec, seed=1)
    image = np.random.default_rng(2).normal(size=spec.input.shape)

    class OneEpsilon(Written):
        def layer_norm(self, x, name, epsilon="1e-6"):
            return super().layer_norm(x, name, "1e-6")

    wrong = written_gmlp(OneEpsilon(weights), image, 2)
    assert relative_error(forward(spec, weights, image[None])["logits"][0], wrong) > 1e-9
