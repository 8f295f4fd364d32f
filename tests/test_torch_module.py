"""The PyTorch model is an ordinary ``nn.Module``: names, devices, dtypes, gradients, compilers."""

from __future__ import annotations

import copy
import pickle
import re

import numpy as np
import onnxruntime
import pytest
import torch
from torch import nn

from mixer_spec import InputError, ModelSpec, ablations, families, variant, weights
from mixer_spec.blocks import NORM
from mixer_spec.shapes import TokenIds, Vectors
from mixer_torch import SpecModel, build
from mixer_torch.modules import MODULES

SIZES = {"image_size": (8, 12), "patch": 4, "depth": 2, "classes": 3}
WIDTHS = {"channels": 8, "token_hidden": 5, "channel_hidden": 7}
SEQUENCE = {**WIDTHS, "depth": 2, "classes": 3}

SPECS = {
    "mixer": families.mixer(channels=8, token_hidden=5, channel_hidden=7, **SIZES),
    "resmlp": families.resmlp(channels=8, **SIZES),
    "gmlp": families.gmlp(channels=8, **SIZES),
    "gmixer": families.gmixer(channels=8, token_hidden=10, channel_hidden=14, **SIZES),
    "vit": families.vit(channels=8, heads=2, channel_hidden=7, **SIZES),
    "feed-forward": families.feed_forward(channels=8, **SIZES),
    "untied": ablations.mixer_untied(**WIDTHS, **SIZES),
    "grouped": ablations.mixer_grouped(groups=2, views=True, **WIDTHS, **SIZES),
    "pyramid": ablations.mixer_pyramid(
        image_size=(8, 12), patch=4, depths=(1, 1), shrink=3, classes=3, **WIDTHS
    ),
    "conv": ablations.resmlp_ablation(channels=8, mixing="separable_conv", norm=NORM, **SIZES),
    "words": families.sequence_mixer(input=TokenIds(tokens=6, vocabulary=10), **SEQUENCE),
    "vectors": families.sequence_mixer(input=Vectors(tokens=6, channels=5), **SEQUENCE),
}


@pytest.fixture(params=SPECS)
def spec(request) -> ModelSpec:
    return SPECS[request.param]


def random_model(spec: ModelSpec, dtype: torch.dtype = torch.float32) -> SpecModel:
    """A model without a zero in it."""
    generator = torch.Generator().manual_seed(3)
    model = build(spec, dtype=dtype)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator, dtype=dtype))
    return model


def random_inputs(
    spec: ModelSpec, batch: int, dtype: torch.dtype = torch.float32, device: str = "cpu"
) -> torch.Tensor:
    generator = torch.Generator().manual_seed(4)
    match spec.input:
        case TokenIds(tokens=tokens, vocabulary=vocabulary):
            drawn = torch.randint(vocabulary, (batch, tokens), generator=generator)
            return drawn.to(device)
        case Vectors(tokens=tokens, channels=channels):
            shape: tuple[int, ...] = (batch, tokens, channels)
        case image:
            shape = (batch, image.channels, image.height, image.width)
    return torch.randn(shape, generator=generator, dtype=dtype).to(device)


def random_images(batch: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return random_inputs(SPECS["mixer"], batch, dtype)


def in_dtype(inputs: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Ids stay ids."""
    return inputs.to(dtype) if inputs.is_floating_point() else inputs


# --- names and parameters -------------------------------------------------------------------


def test_state_dict_keys_and_shapes_are_the_canonical_ones(spec):
    state = SpecModel(spec).state_dict()
    assert {name: tuple(tensor.shape) for name, tensor in state.items()} == {
        name: parameter.shape for name, parameter in spec.parameters().items()
    }
    # In the canonical order, but for the transitions of a pyramid: they stand together.
    place = {"stem": 0, "transitions": 1}
    assert list(state) == sorted(
        spec.parameters(), key=lambda name: place.get(name.partition(".")[0], 2)
    )


def test_submodules_stand_at_the_paths_of_the_nodes(spec):
    model = SpecModel(spec)
    modules = dict(model.named_modules())
    for node in spec.nodes():
        assert type(modules[node.path]).__name__ == type(node.layer).__name__


def test_a_new_model_has_the_papers_initial_values(spec):
    model = SpecModel(spec)
    model.head.kernel.data.fill_(7)
    model.reset_parameters(seed=5)
    for name, expected in weights.initial(spec, seed=5).items():
        assert np.array_equal(model.state_dict()[name].numpy(), expected), name


def test_parameter_counts_of_a_published_variant_agree():
    model = SpecModel(variant("mixer_b16").spec(), device="meta")
    assert sum(parameter.numel() for parameter in model.parameters()) == 59_880_472


def test_repr_shows_what_each_layer_is():
    text = repr(SpecModel(SPECS["mixer"]))
    assert "(dense_0): TokenDense(kernel=[5, 6], bias=[5])" in text
    assert "PatchEmbed(\n    kernel=[4, 4, 3, 8], bias=[8]" in repr(SpecModel(SPECS["vit"]))
    assert "(gelu_0): Gelu(approximate='tanh')" in text
    assert "LayerNorm(scale=[8], bias=[8], epsilon=1e-06)" in text
    assert "(group): GroupChannels(groups=2)" in repr(SpecModel(SPECS["grouped"]))
    assert "(conv): DepthwiseConv(kernel=[3, 3, 8], bias=[8])" in repr(SpecModel(SPECS["conv"]))


# --- forward --------------------------------------------------------------------------------


def test_forward_and_forward_taps_give_the_same_bits(spec):
    model, inputs = random_model(spec), random_inputs(spec, 3)
    found = model.forward_taps(inputs, spec.taps)
    assert list(found) == list(spec.taps)
    assert torch.equal(found["logits"], model(inputs))
    assert list(model.forward_taps(inputs)) == ["logits"]


def test_images_of_another_size_are_an_input_error():
    model = SpecModel(SPECS["mixer"])
    expected = "expected [batch, 3, 8, 12] (batch, rgb, height, width), got [2, 3, 12, 8]"
    with pytest.raises(InputError, match=re.escape(expected)):
        model(torch.ones(2, 3, 12, 8))
    with pytest.raises(InputError, match="these are channels last"):
        model(torch.ones(2, 8, 12, 3))
    with pytest.raises(InputError, match="wrong shape"):
        model(torch.ones(3, 8, 12))


def test_sequences_of_another_length_are_an_input_error():
    with pytest.raises(InputError, match=r"expected \[batch, 6\] \(batch, token\), got \[2, 7\]"):
        SpecModel(SPECS["words"])(torch.zeros(2, 7, dtype=torch.int64))
    expected = r"expected \[batch, 6, 5\] \(batch, token, channel\), got \[2, 5, 6\]"
    with pytest.raises(InputError, match=expected):
        SpecModel(SPECS["vectors"])(torch.zeros(2, 5, 6))


def test_every_layer_kind_is_under_test():
    covered = {type(node.layer) for each in SPECS.values() for node in each.nodes()}
    assert covered == set(MODULES)


def test_an_empty_batch_has_no_logits(spec):
    assert SpecModel(spec)(random_inputs(spec, 0)).shape == (0, 3)


def test_unknown_taps_are_an_input_error():
    with pytest.raises(InputError, match=r"expected names like \['stem'.* got \['blocks.9'\]"):
        SpecModel(SPECS["mixer"]).forward_taps(random_images(1), ["blocks.9", "stem"])


def test_strides_of_the_inputs_do_not_matter(spec):
    model, inputs = random_model(spec), random_inputs(spec, 3)
    strided = inputs.movedim(0, -1).contiguous().movedim(-1, 0)
    assert strided.stride() != inputs.stride()
    assert torch.allclose(model(strided), model(inputs), rtol=1e-6, atol=1e-6)


def test_memory_format_of_the_images_does_not_matter():
    model, images = random_model(SPECS["conv"]), random_images(3)
    channels_last = images.to(memory_format=torch.channels_last)
    assert torch.allclose(model(channels_last), model(images), rtol=1e-6, atol=1e-6)


def test_forward_hooks_see_the_taps():
    spec = SPECS["mixer"]
    model, images, seen = random_model(spec), random_images(2), {}
    paths = [tap for tap in spec.taps if tap.startswith(("stem", "blocks"))]
    for path in paths:
        module = model.get_submodule(path)
        module.register_forward_hook(lambda *arguments, path=path: seen.update({path: arguments}))
    model(images)
    taps = model.forward_taps(images, spec.taps)
    assert all(torch.equal(seen[path][2], taps[path]) for path in paths)


def test_hooks_on_whole_blocks_run():
    model, seen = random_model(SPECS["mixer"]), []
    for block in model.blocks:
        block.register_forward_hook(lambda *_: seen.append("block"))
    model(random_images(1))
    assert seen == ["block", "block"]


def test_the_head_can_be_replaced_for_fine_tuning():
    model = random_model(SPECS["mixer"])
    model.head = nn.Linear(8, 11)
    assert model(random_images(2)).shape == (2, 11)
    assert model.forward_taps(random_images(2))["logits"].shape == (2, 11)


# --- devices and dtypes ---------------------------------------------------------------------


def test_nothing_is_allocated_on_the_meta_device(spec):
    model = SpecModel(spec, device="meta", dtype=torch.bfloat16)
    assert {parameter.device.type for parameter in model.parameters()} == {"meta"}
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}
    logits = model(random_inputs(spec, 5, torch.bfloat16, "meta"))
    assert logits.shape == (5, 3)
    with torch.device("meta"):
        assert {p.device.type for p in SpecModel(spec).parameters()} == {"meta"}


def test_a_meta_model_is_filled_by_its_owner():
    spec = SPECS["mixer"]
    model = SpecModel(spec, device="meta").to_empty(device="cpu")
    model.reset_parameters()
    expected = SpecModel(spec).state_dict()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in model.state_dict().items())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_runs_close_to_float64(spec, dtype):
    exact = random_model(spec, torch.float64)
    model = copy.deepcopy(exact).to(dtype)
    inputs = random_inputs(spec, 3, torch.float64)
    logits, expected = model(in_dtype(inputs, dtype)), exact(inputs)
    assert logits.dtype == dtype
    # Some dozens of roundings of the storage's precision, far below the size of the logits.
    error = (logits.double() - expected).norm() / expected.norm()
    assert 0 < error < 30 * torch.finfo(dtype).eps


def test_module_conversions_return_the_model_in_that_dtype():
    model = SpecModel(SPECS["mixer"])
    for convert, dtype in (
        (model.half, torch.float16),
        (model.bfloat16, torch.bfloat16),
        (model.double, torch.float64),
        (model.float, torch.float32),
    ):
        assert {parameter.dtype for parameter in convert().parameters()} == {dtype}


def test_train_and_eval_compute_the_same_since_dropout_belongs_to_a_recipe(spec):
    model, inputs = random_model(spec), random_inputs(spec, 2)
    assert torch.equal(model.train()(inputs), model.eval()(inputs))


# --- copies ---------------------------------------------------------------------------------


def test_a_deep_copy_is_equal_and_independent(spec):
    model, inputs = random_model(spec), random_inputs(spec, 2)
    twin = copy.deepcopy(model)
    assert torch.equal(twin(inputs), model(inputs))
    twin.head.bias.data.add_(1)
    assert not torch.equal(twin(inputs), model(inputs))


def test_a_pickled_model_and_a_saved_state_come_back(spec, tmp_path):
    model, inputs = random_model(spec), random_inputs(spec, 2)
    assert torch.equal(pickle.loads(pickle.dumps(model))(inputs), model(inputs))
    torch.save(model.state_dict(), tmp_path / "state.pt")
    other = SpecModel(spec)
    other.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True), strict=True)
    assert torch.equal(other(inputs), model(inputs))


# --- gradients ------------------------------------------------------------------------------


def test_every_parameter_and_floating_inputs_have_a_gradient(spec):
    model = random_model(spec)
    inputs = random_inputs(spec, 3)
    if inputs.is_floating_point():
        inputs.requires_grad_()
    model(inputs).square().sum().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        if not name.endswith("attention.key.bias"):  # the softmax does not depend on it
            assert parameter.grad.any(), name
    if inputs.is_floating_point():
        assert inputs.grad.any()


def test_gradients_equal_finite_differences(spec):
    model = random_model(spec, torch.float64)
    inputs = random_inputs(spec, 2, torch.float64)

    def loss() -> torch.Tensor:
        return model(inputs).sin().sum()

    loss().backward()
    step = 1e-5
    for name, parameter in model.named_parameters():
        flat, gradient = parameter.data.view(-1), parameter.grad.view(-1)
        index = int(gradient.abs().argmax())
        flat[index] += step
        above = loss().item()
        flat[index] -= 2 * step
        below = loss().item()
        flat[index] += step
        numeric = (above - below) / (2 * step)
        assert gradient[index].item() == pytest.approx(numeric, rel=1e-5, abs=1e-7), name


def test_functional_calls_and_vmap_give_the_same_logits():
    model, images = random_model(SPECS["mixer"]), random_images(2)
    state = dict(model.named_parameters())
    called = torch.func.functional_call(model, state, images)
    assert torch.equal(called, model(images))
    single = torch.func.vmap(lambda image: model(image[None])[0])(images)
    assert torch.allclose(single, called, rtol=1e-5, atol=1e-5)


# --- compilers ------------------------------------------------------------------------------


def test_compile_makes_one_graph(spec):
    torch.compiler.reset()
    model, inputs = random_model(spec), random_inputs(spec, 2)
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    assert torch.allclose(compiled(inputs), model(inputs), rtol=1e-6, atol=1e-6)


def test_compile_makes_one_graph_of_the_taps():
    torch.compiler.reset()
    spec = SPECS["mixer"]
    model, images = random_model(spec), random_images(2)
    compiled = torch.compile(
        lambda x: model.forward_taps(x, ("stem", "pooled")), fullgraph=True, backend="eager"
    )
    found = compiled(images)
    assert torch.equal(found["pooled"], model.forward_taps(images, ["pooled"])["pooled"])


def test_export_keeps_names_and_a_dynamic_batch(spec):
    model = random_model(spec).eval()
    batch = torch.export.Dim("batch")
    program = torch.export.export(
        model, (random_inputs(spec, 2),), dynamic_shapes={"inputs": {0: batch}}, strict=True
    )
    assert set(program.state_dict) == set(spec.parameters())
    runner = program.module()
    for size in (1, 2, 7):
        inputs = random_inputs(spec, size)
        assert torch.allclose(runner(inputs), model(inputs), rtol=1e-6, atol=1e-6)


def exported(model: SpecModel, inputs: torch.Tensor) -> torch.export.ExportedProgram:
    batch = {"inputs": {0: torch.export.Dim("batch")}}
    return torch.export.export(model, (inputs,), dynamic_shapes=batch, strict=True)


def test_an_exported_program_comes_back_from_its_file(spec, tmp_path):
    model, path = random_model(spec).eval(), tmp_path / "model.pt2"
    torch.export.save(exported(model, random_inputs(spec, 2)), path)
    program = torch.export.load(path)
    for name, weight in model.state_dict().items():
        assert torch.equal(program.state_dict[name], weight), name
    for size in (1, 5):
        inputs = random_inputs(spec, size)
        assert torch.allclose(program.module()(inputs), model(inputs), rtol=1e-6, atol=1e-6)


@pytest.mark.filterwarnings("ignore:.*LeafSpec:FutureWarning")  # PyTorch's own
@pytest.mark.parametrize("name", ["mixer", "gmlp", "vit"])
def test_an_exported_program_needs_core_operators_only(name):
    """Those that ExecuTorch and other takers of exported programs have to know."""
    model, inputs = random_model(SPECS[name]).eval(), random_inputs(SPECS[name], 2)
    program = exported(model, inputs).run_decompositions()
    operators = {node.target for node in program.graph.nodes if node.op == "call_function"}
    operators = {each for each in operators if isinstance(each, torch._ops.OpOverload)}
    assert torch.ops.aten.addmm.default in operators
    assert {str(each) for each in operators if torch.Tag.core not in each.tags} == set()
    assert torch.allclose(program.module()(inputs), model(inputs), rtol=1e-5, atol=1e-5)


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning", "ignore::DeprecationWarning")
def test_torch_s_older_onnx_exporter_takes_the_model(spec, tmp_path):
    model, inputs = random_model(spec).eval(), random_inputs(spec, 2)
    path = tmp_path / "model.onnx"
    torch.onnx.export(model, (inputs,), path, dynamo=False, opset_version=20)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    (entering,) = session.get_inputs()
    (found,) = session.run(None, {entering.name: inputs.numpy()})
    np.testing.assert_allclose(found, model(inputs).detach(), rtol=1e-4, atol=1e-5)


def test_a_training_step_lowers_the_loss():
    model = random_model(SPECS["mixer"])
    images, labels = random_images(8), torch.arange(8) % 3
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-2)
    losses = []
    for _ in range(20):
        loss = nn.functional.cross_entropy(model(images), labels)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]
