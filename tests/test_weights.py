"""Canonical weights: initial values, validation and digest."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest

from mixer_spec import WeightsError, families, variant
from mixer_spec.layers import Constant
from mixer_spec.weights import digest, initial, validate

TINY = families.mixer(
    image_size=8, patch=4, channels=6, depth=1, token_hidden=5, channel_hidden=7, classes=3
)


def test_initial_values_are_the_papers():
    spec = variant("mixer_s32").spec()
    weights = initial(spec, seed=3)
    validate(spec, weights)
    for name, parameter in spec.parameters().items():
        values = weights[name]
        assert values.dtype == np.float32
        if name.startswith("head.") or name.endswith(".bias"):
            assert not values.any(), name
        elif name.endswith(".scale"):
            assert (values == 1).all(), name
        else:
            expected = parameter.fan_in**-0.5
            assert values.std() == pytest.approx(expected, rel=0.03), name
            assert abs(values.mean()) < 0.03 * expected, name
            # Truncated at two deviations of the normal before it was scaled up again.
            assert np.abs(values).max() <= 2 / 0.8796 * expected * 1.001, name
            assert np.abs(values).max() > 2 / 0.8796 * expected * 0.98, name


def test_initial_values_depend_on_the_seed_and_the_name_only():
    first, again, other = initial(TINY, seed=1), initial(TINY, seed=1), initial(TINY, seed=2)
    deeper = families.mixer(
        image_size=8, patch=4, channels=6, depth=3, token_hidden=5, channel_hidden=7, classes=3
    )
    kernel = "blocks.0.token_mixing.dense_0.kernel"
    assert digest(first) == digest(again) != digest(other)
    assert np.array_equal(initial(deeper, seed=1)[kernel], first[kernel])
    assert not np.array_equal(first[kernel].ravel()[:5], first["stem.kernel"].ravel()[:5])


def test_published_variants_bring_their_own_initial_values():
    for name, value in (("resmlp_12", 0.1), ("resmlp_24", 1e-5), ("resmlp_36", 1e-6)):
        found = variant(name)
        weights = initial(found.spec(image_size=16), overrides=found.initial)
        scale = weights["blocks.0.token_mixing.scale.scale"]
        assert (scale == np.float32(value)).all()
        assert (weights["blocks.0.token_mixing.norm.scale"] == 1).all()
    gmlp = variant("gmlp_ti16")
    weights = initial(gmlp.spec(image_size=64), overrides=gmlp.initial)
    assert (weights["blocks.7.gated_mixing.gate.dense_0.bias"] == 1).all()
    assert 0 < np.abs(weights["blocks.7.gated_mixing.gate.dense_0.kernel"]).max() < 1e-5
    assert not weights["blocks.7.gated_mixing.dense_0.bias"].any()


def test_override_that_touches_nothing_is_refused():
    with pytest.raises(WeightsError, match=r"no weight ends with.*\.gate\.scale"):
        initial(TINY, overrides={".gate.scale": Constant(1.0)})


def test_every_difference_is_named_at_once_as_plus_and_minus():
    weights = initial(TINY)
    del weights["norm.scale"]
    weights["head.kernel"] = weights["head.kernel"].T
    weights["head.bias"] = np.zeros(3, np.int64)
    weights["extra"] = np.zeros(2, np.float32)
    with pytest.raises(WeightsError) as caught:
        validate(TINY, weights, where="model.safetensors")
    assert str(caught.value).splitlines() == [
        "model.safetensors: 4 rules broken",
        "  - norm.scale [6] (missing)",
        "  - head.kernel [6, 3] (expected)",
        "  + head.kernel [3, 6] (wrong shape)",
        "  + head.bias int64 (wrong dtype; expected a floating one)",
        "  + extra [2] (not in the spec)",
    ]


def test_values_that_are_no_arrays_are_refused():
    weights = dict(initial(TINY)) | {"head.bias": [0.0, 0.0, 0.0]}
    with pytest.raises(WeightsError, match=r"head.bias list \(not a NumPy array\)"):
        validate(TINY, weights)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, ml_dtypes.bfloat16])
def test_every_floating_dtype_is_accepted(dtype):
    validate(TINY, {name: array.astype(dtype) for name, array in initial(TINY).items()})


def test_digest_sees_names_shapes_dtypes_and_bits_but_not_layout_or_order():
    weights = {"a": np.arange(6, dtype=np.float32).reshape(2, 3), "b": np.zeros(2, np.float32)}
    same = {"b": weights["b"], "a": np.asfortranarray(weights["a"])}
    assert digest(same) == digest(weights)
    changed = [
        weights | {"b": np.array([0.0, -0.0], np.float32)},
        weights | {"a": weights["a"].reshape(3, 2)},
        weights | {"b": weights["b"].astype(np.float64)},
        {"a": weights["a"], "c": weights["b"]},
        {"a": weights["a"]},
    ]
    digests = {digest(w) for w in changed}
    assert len(digests) == len(changed)
    assert digest(weights) not in digests


def test_digest_takes_bfloat16_and_scalars():
    assert digest({"a": np.ones((), ml_dtypes.bfloat16)}) != digest({"a": np.ones((), np.float16)})
