"""Weights go into PyTorch without a copy and come out bit for bit; wrong ones are refused."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest
import torch

from mixer_converters import canonical
from mixer_spec import WeightsError, families
from mixer_spec.weights import digest, initial
from mixer_torch import SpecModel, TorchBackend, build, export_weights, load_weights
from mixer_torch.arrays import to_array, to_tensor

SPEC = families.mixer(
    image_size=(8, 12), patch=4, channels=6, depth=1, token_hidden=5, channel_hidden=7, classes=3
)
IMAGES = np.random.Generator(np.random.Philox(key=1)).standard_normal((2, 8, 12, 3), np.float32)

# A signalling and a quiet NaN with payloads, -0.0, subnormals, infinities, the largest number.
STRANGE = np.array(
    [0x7F80_0001, 0xFFC0_1234, 0x8000_0000, 0x0000_0001, 0x807F_FFFF, 0x7F80_0000, 0x7F7F_FFFF],
    np.uint32,
).view(np.float32)


def strange_weights() -> dict[str, np.ndarray]:
    weights = initial(SPEC)
    weights["blocks.0.channel_mixing.dense_0.bias"][:] = STRANGE
    return weights


def addresses(arrays) -> dict[str, int]:
    return {name: array.__array_interface__["data"][0] for name, array in arrays.items()}


def read_only(weights, tmp_path) -> dict[str, np.ndarray]:
    """The same weights in a file that is mapped without the right to write."""
    total = np.concatenate([array.ravel() for array in weights.values()])
    total.tofile(tmp_path / "weights.bin")
    memory = np.memmap(tmp_path / "weights.bin", np.float32, "r")
    ends = np.cumsum([array.size for array in weights.values()])
    return {
        name: memory[end - array.size : end].reshape(array.shape)
        for (name, array), end in zip(weights.items(), ends, strict=True)
    }


# --- in, without a copy ---------------------------------------------------------------------


def test_writable_float32_arrays_become_the_parameters_themselves():
    weights = initial(SPEC)
    for model in (build(SPEC, weights), TorchBackend().load(SPEC, weights).module):
        pointers = {name: tensor.data_ptr() for name, tensor in model.state_dict().items()}
        assert pointers == addresses(weights)


def test_the_backend_runs_on_a_read_only_map_without_a_copy_or_a_warning(tmp_path):
    weights = read_only(initial(SPEC), tmp_path)
    assert not any(array.flags.writeable for array in weights.values())
    model = TorchBackend().load(SPEC, weights)
    pointers = {name: tensor.data_ptr() for name, tensor in model.module.state_dict().items()}
    assert pointers == addresses(weights)
    assert not any(parameter.requires_grad for parameter in model.module.parameters())
    expected = TorchBackend().load(SPEC, initial(SPEC)).forward(IMAGES, ["pooled"])
    assert np.array_equal(model.forward(IMAGES, ["pooled"])["pooled"], expected["pooled"])


def test_a_model_built_from_a_read_only_map_can_be_trained(tmp_path):
    weights = read_only(initial(SPEC), tmp_path)
    model = build(SPEC, weights)
    assert all(parameter.requires_grad for parameter in model.parameters())
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(1)
    assert digest(weights) == digest(initial(SPEC))


def test_a_canonical_file_is_loaded_without_a_copy(tmp_path):
    canonical.save(tmp_path / "model.safetensors", SPEC, strange_weights())
    loaded = canonical.load(tmp_path / "model.safetensors")
    model = build(loaded.spec, loaded.weights)
    pointers = {name: tensor.data_ptr() for name, tensor in model.state_dict().items()}
    assert pointers == addresses(loaded.weights)
    assert digest(export_weights(model)) == digest(strange_weights())


def test_the_map_lives_as_long_as_the_model(tmp_path):
    model = TorchBackend().load(SPEC, read_only(strange_weights(), tmp_path))
    (tmp_path / "weights.bin").unlink()
    assert digest(model.export_weights()) == digest(strange_weights())


def test_weights_in_the_dtype_asked_for_are_converted():
    model = build(SPEC, initial(SPEC), dtype=torch.float64)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float64}
    for name, array in initial(SPEC).items():
        assert np.array_equal(export_weights(model)[name], array.astype(np.float64))


def test_load_weights_keeps_the_parameters_their_dtype_and_the_optimiser():
    model = SpecModel(SPEC, dtype=torch.float64)
    before = dict(model.named_parameters())
    weights = initial(SPEC, seed=9)
    load_weights(model, weights)
    assert all(parameter is before[name] for name, parameter in model.named_parameters())
    assert np.array_equal(model.stem.kernel.detach().numpy(), weights["stem.kernel"].astype(float))


# --- out, bit for bit -----------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16, np.float32, np.float64])
def test_a_model_gives_back_the_bits_it_was_built_from(dtype):
    with np.errstate(over="ignore", invalid="ignore"):
        weights = {name: array.astype(dtype) for name, array in strange_weights().items()}
    found = export_weights(build(SPEC, weights))
    assert list(found) == list(weights)
    assert {array.dtype for array in found.values()} == {np.dtype(dtype)}
    assert digest(found) == digest(weights)


def test_the_backend_gives_back_float32_bits():
    weights = strange_weights()
    found = TorchBackend().load(SPEC, weights).export_weights()
    assert digest(found) == digest(weights)
    assert not any(array.flags.writeable for array in found.values())


@pytest.mark.parametrize("profile", ["f32-strict", "f64"])
@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16, np.float32])
def test_the_backend_gives_back_values_that_it_widened_in_their_own_dtype(dtype, profile):
    weights = {name: array.astype(dtype) for name, array in initial(SPEC).items()}
    weights["stem.bias"][:3] = [-0.0, np.inf, 3e-6]
    assert digest(TorchBackend().load(SPEC, weights, profile=profile).export_weights()) == digest(
        weights
    )


def test_one_changed_bit_changes_what_is_exported():
    weights = strange_weights()
    model = TorchBackend().load(SPEC, weights)
    expected = digest(weights)
    model.module.head.bias.data = torch.tensor([0.0, -0.0, 0.0])
    assert digest(model.export_weights()) != expected


def test_bfloat16_weights_compute_as_their_float32_values():
    halved = {name: array.astype(ml_dtypes.bfloat16) for name, array in initial(SPEC).items()}
    widened = {name: array.astype(np.float32) for name, array in halved.items()}
    found, expected = (
        TorchBackend().load(SPEC, weights).forward(IMAGES, ["norm"])["norm"]
        for weights in (halved, widened)
    )
    assert found.any()
    assert np.array_equal(found, expected)


# --- arrays and tensors ---------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16, np.float32, np.float64])
@pytest.mark.parametrize("writable", [True, False])
def test_arrays_and_tensors_share_memory_both_ways(dtype, writable):
    array = np.arange(6).astype(dtype).reshape(2, 3)
    array.flags.writeable = writable
    tensor = to_tensor(array)
    assert tensor.tolist() == array.tolist()
    assert np.shares_memory(array.view(np.uint8), to_array(tensor).view(np.uint8))
    assert to_array(tensor).dtype == array.dtype


def test_arrays_that_a_tensor_cannot_describe_are_copied():
    array = np.arange(6, dtype=np.float32).reshape(2, 3)
    for odd in (array[::-1], array.astype(">f4"), array.T):
        assert to_tensor(odd).is_contiguous()
        assert to_tensor(odd).tolist() == odd.tolist()


def test_a_bfloat16_array_that_is_not_contiguous_keeps_its_values():
    array = np.arange(6).astype(ml_dtypes.bfloat16).reshape(2, 3)
    assert to_tensor(array.T).tolist() == array.T.tolist()
    assert to_tensor(array[:, ::2]).tolist() == array[:, ::2].tolist()


# --- refused --------------------------------------------------------------------------------


def wrong_weights() -> dict[str, np.ndarray]:
    weights = initial(SPEC)
    del weights["head.bias"]
    weights["head.weight"] = weights["head.kernel"]
    weights["stem.kernel"] = weights["stem.kernel"].reshape(48, 6)
    return weights


@pytest.mark.parametrize(
    "load",
    [
        lambda weights: build(SPEC, weights),
        lambda weights: load_weights(SpecModel(SPEC), weights),
        lambda weights: TorchBackend().load(SPEC, weights),
    ],
    ids=["build", "load_weights", "backend"],
)
def test_every_difference_of_wrong_weights_is_in_one_error(load):
    with pytest.raises(WeightsError) as caught:
        load(wrong_weights())
    assert list(caught.value.problems) == [
        "- stem.kernel [4, 4, 3, 6] (expected)\n  + stem.kernel [48, 6] (wrong shape)",
        "- head.bias [3] (missing)",
        "+ head.weight [6, 3] (not in the spec)",
    ]


def test_wrong_weights_leave_the_model_as_it_was():
    model = SpecModel(SPEC)
    before = digest(export_weights(model))
    weights = {name: array + 1 for name, array in initial(SPEC).items()}
    del weights["head.bias"]
    with pytest.raises(WeightsError):
        load_weights(model, weights)
    assert digest(export_weights(model)) == before


def test_a_dtype_that_torch_does_not_have_is_refused():
    weights = {**initial(SPEC), "head.bias": np.zeros(3, np.longdouble)}
    expected = r"head.bias float128 \(wrong dtype; expected one of \['float16', 'bfloat16'"
    with pytest.raises(WeightsError, match=expected):
        build(SPEC, weights)


def test_tensors_in_the_place_of_arrays_are_refused():
    with pytest.raises(WeightsError, match=r"must be NumPy arrays; .* stem.kernel is a Tensor"):
        build(SPEC, SpecModel(SPEC).state_dict())


def test_strict_loading_of_a_state_dict_finds_foreign_names():
    state = SpecModel(SPEC).state_dict()
    state["head.weight"] = state.pop("head.kernel")
    with pytest.raises(RuntimeError, match=r'Missing key\(s\) in state_dict: "head.kernel"'):
        SpecModel(SPEC).load_state_dict(state, strict=True)
