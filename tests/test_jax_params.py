"""The parameters of the JAX backend: nesting, stacking, initial values, and the bits they keep."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from numpy.typing import NDArray

from mixer_jax import JaxBackend, from_canonical, init, stack, to_canonical, unstack
from mixer_spec import ModelSpec, families
from mixer_spec.errors import WeightsError
from mixer_spec.layers import Constant, LecunNormal
from mixer_spec.weights import initial

SPEC = families.mixer(
    image_size=(8, 4), patch=4, channels=5, depth=3, token_hidden=3, channel_hidden=6, classes=3
)
VIT = families.vit(image_size=8, patch=4, channels=4, depth=2, heads=2, channel_hidden=5, classes=3)

# Values that arithmetic would change: minus zero, subnormals, quiet and signalling NaNs with
# payloads, the infinities.
_BITS = {
    "float16": [0x8000, 0x0001, 0x7E01, 0x7C01, 0xFC00, 0x7BFF],
    "bfloat16": [0x8000, 0x0001, 0x7FC1, 0x7F81, 0xFF80, 0x7F7F],
    "float32": [0x80000000, 0x00000001, 0x7FC12345, 0x7F800001, 0xFF800000, 0x7F7FFFFF],
    "float64": [1 << 63, 1, 0x7FF8000000012345, 0x7FF0000000000001, 0xFFF << 52, 0x7FEFFFFFFFFFFFFF],
}  # fmt: skip


def _awkward(spec: ModelSpec, dtype: str) -> dict[str, NDArray[Any]]:
    """Weights whose bits are those of ``_BITS``, in turn."""
    kind = np.dtype(getattr(ml_dtypes, dtype) if dtype == "bfloat16" else dtype)
    bits = np.array(_BITS[dtype], f"u{kind.itemsize}")
    return {
        name: np.resize(np.roll(bits, number), parameter.shape).view(kind)
        for number, (name, parameter) in enumerate(spec.parameters().items())
    }


def _same_bits(left: Mapping[str, NDArray[Any]], right: Mapping[str, NDArray[Any]]) -> bool:
    return left.keys() == right.keys() and all(
        left[name].dtype == right[name].dtype
        and left[name].shape == right[name].shape
        and left[name].tobytes() == right[name].tobytes()
        for name in right
    )


def test_names_are_nested_at_their_dots() -> None:
    params = init(VIT, 0)
    assert set(params) == {"stem", "blocks", "norm", "head"}
    assert params["stem"]["kernel"].shape == (4, 4, 3, 4)
    assert params["stem"]["class_token"]["embedding"].shape == (1, 4)
    assert params["blocks"]["1"]["token_mixing"]["attention"]["query"]["kernel"].shape == (4, 4)


@pytest.mark.parametrize("spec", [SPEC, VIT], ids=["mixer", "vit"])
def test_nesting_and_back_gives_the_same_arrays_in_the_same_order(spec: ModelSpec) -> None:
    weights = initial(spec)
    found = to_canonical(from_canonical(weights))
    assert list(found) == list(weights)
    assert all(found[name] is weights[name] for name in weights)


@pytest.mark.parametrize("profile", ["f32-strict", "f64"])
@pytest.mark.parametrize("scan", [False, True], ids=["plain", "scanned"])
@pytest.mark.parametrize("dtype", _BITS)
def test_the_backend_exports_the_bits_that_it_was_given(
    dtype: str, scan: bool, profile: Any
) -> None:
    weights = _awkward(SPEC, dtype)
    model = JaxBackend(scan=scan).load(SPEC, weights, profile=profile)
    assert _same_bits(model.export_weights(), weights)
    changed = {**weights, "head.bias": -weights["head.bias"]}
    assert not _same_bits(model.export_weights(), changed)


@pytest.mark.parametrize("make", [np.asarray, jnp.asarray], ids=["numpy", "jax"])
def test_stacking_and_back_keeps_every_bit(make: Any) -> None:
    weights = _awkward(SPEC, "float32")
    params = jax.tree.map(make, from_canonical(weights))
    stacked = stack(SPEC, params)
    assert "blocks" not in stacked
    assert stacked["stages"]["0"]["token_mixing"]["dense_0"]["kernel"].shape == (3, 3, 2)
    assert {type(leaf) for leaf in jax.tree.leaves(stacked)} == {
        type(leaf) for leaf in jax.tree.leaves(params)
    }
    back = to_canonical(jax.tree.map(np.asarray, unstack(SPEC, stacked)))
    assert _same_bits(back, weights)


def test_blocks_of_different_dtypes_are_not_stacked() -> None:
    weights: dict[str, NDArray[Any]] = dict(initial(SPEC))
    name = "blocks.1.channel_mixing.dense_0.bias"
    weights[name] = weights[name].astype(np.float64)
    with pytest.raises(WeightsError, match=r"expected one dtype, got \['float32', 'float64'\]"):
        JaxBackend(scan=True).load(SPEC, weights)
    assert _same_bits(JaxBackend().load(SPEC, weights).export_weights(), weights)


def test_parameters_that_do_not_fit_are_not_stacked() -> None:
    params = init(SPEC, 0)
    del params["blocks"]["1"]["token_mixing"]["norm"]
    with pytest.raises(WeightsError, match=r"blocks.1.token_mixing.norm.bias \[5\] \(missing\)"):
        stack(SPEC, params)


def _page_aligned(array: NDArray[Any]) -> NDArray[Any]:
    """A copy at an address that XLA can use in place, as memory-mapped files may have."""
    room = np.empty(array.nbytes + 4096, np.uint8)
    start = -room.ctypes.data % 4096
    aligned = room[start : start + array.nbytes].view(array.dtype).reshape(array.shape)
    aligned[...] = array
    return aligned


def test_later_changes_of_the_callers_arrays_are_not_seen() -> None:
    weights = {name: _page_aligned(array) for name, array in initial(SPEC).items()}
    model = JaxBackend().load(SPEC, weights)
    before = {name: array.copy() for name, array in weights.items()}
    for array in weights.values():
        array[...] = 7
    assert _same_bits(model.export_weights(), before)


def test_read_only_weights_are_not_copied_on_a_cpu() -> None:
    weights = {name: _page_aligned(array) for name, array in initial(SPEC).items()}
    for array in weights.values():
        array.flags.writeable = False
    exported = JaxBackend().load(SPEC, weights).export_weights()
    assert all(np.shares_memory(exported[name], weights[name]) for name in weights)


def test_a_whole_number_draws_the_values_of_the_core() -> None:
    for seed in (5, np.int64(5)):
        assert _same_bits(to_canonical(init(SPEC, seed)), initial(SPEC, seed=5))
    assert not _same_bits(to_canonical(init(SPEC, 5)), initial(SPEC, seed=6))


def test_a_key_draws_from_the_distributions_of_the_core_inside_jit_too() -> None:
    spec = families.mixer(
        image_size=32, patch=4, channels=128, depth=1, token_hidden=256, channel_hidden=192
    )
    drawn = to_canonical(jax.jit(init, static_argnums=0)(spec, jax.random.key(0)))
    parameters = spec.parameters()
    assert drawn.keys() == parameters.keys()
    for name, parameter in parameters.items():
        values = np.asarray(drawn[name])
        assert values.shape == parameter.shape
        assert values.dtype == np.float32
        match parameter.initial:
            case Constant(value):
                assert (values == value).all(), name
            case LecunNormal():
                stddev = (parameter.fan_in or 1) ** -0.5
                assert abs(values.std() / stddev - 1) < 0.03, name
                assert abs(values.mean() / stddev) < 0.03, name
                # Truncated at two standard deviations of the normal before it is widened again.
                assert 2 < np.abs(values).max() / stddev < 2.28, name
            case other:
                pytest.fail(f"{name} has the distribution {other}")
    assert (drawn["head.kernel"] == 0).all()
    first, second = (np.ravel(drawn[f"blocks.0.channel_mixing.dense_{i}.kernel"]) for i in (0, 1))
    assert abs(np.corrcoef(first, second)[0, 1]) < 0.03


def test_position_embeddings_are_drawn_with_their_own_deviation() -> None:
    spec = families.vit(
        image_size=64, patch=4, channels=64, depth=0, heads=2, channel_hidden=4, classes=3
    )
    embedding = np.asarray(init(spec, jax.random.key(1))["stem"]["position"]["embedding"])
    assert abs(embedding.std() / 0.02 - 1) < 0.03
