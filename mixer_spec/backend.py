"""What a backend is: its protocols, their input checks, and discovery by name."""

from __future__ import annotations

import difflib
import functools
import importlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol, get_args, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from .errors import InputError, UnknownNameError
from .extras import load_or_name_extra
from .model import ModelSpec
from .shapes import Image, ModelInput, TokenIds
from .training import CrossEntropy, Gradients, Optimiser, TrainState
from .weights import Weights

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

    from .preprocess import Preprocessing

Profile = Literal["f64", "f32-strict", "f32-tf32", "f32-bf16mm", "bf16", "fp16", "int8"]
"""An arithmetic.

``f32-strict`` is IEEE float32 throughout, without TF32 and fast-math; ``f32-tf32`` and
``f32-bf16mm`` round the operands of products to 11 and 8 bits and add up in float32; ``bf16`` and
``fp16`` keep what flows between layers in 8 or 11 bits too; ``int8`` quantises the operands of
products. Results are float32 arrays, and float64 for ``f64``.
"""

PROFILES: tuple[Profile, ...] = get_args(Profile)

GROUP = "mixer_spec.backends"


@dataclass(frozen=True, kw_only=True, slots=True)
class BackendInfo:
    """What a backend says of itself.

    Args:
        name: the name it is registered under.
        versions: its packages' versions, by distribution name.
        device: where it computes, in words, as in ``cpu``.
        profiles: the arithmetics that it claims.
        taps: whether it returns the intermediates; ``False`` for an engine that only has logits.
    """

    name: str
    versions: Mapping[str, str]
    device: str
    profiles: tuple[Profile, ...]
    taps: bool = True


@runtime_checkable
class Model(Protocol):
    """A model loaded with weights, ready to run."""

    def forward(self, inputs: NDArray[Any], taps: Sequence[str] = ()) -> Mapping[str, NDArray[Any]]:
        """Run a batch.

        Args:
            inputs: what ``spec.input`` says, with a batch axis in front: preprocessed images
                ``[batch, height, width, rgb]`` or vectors ``[batch, token, channel]`` in float32
                (float64 for ``f64``), or ids ``[batch, token]``.
            taps: names out of ``spec.taps``.

        Returns:
            ``"logits"`` ``[batch, class]`` always, and every tap asked for.

        Raises:
            InputError: if the inputs or the taps do not fit the spec.
        """
        ...

    def export_weights(self) -> Weights:
        """The weights it holds under their canonical names, bit for bit as they were loaded."""
        ...


@runtime_checkable
class Differentiable(Protocol):
    """A model that can also be differentiated: optional, and what level L3 of conformance judges."""

    def vjp(self, inputs: NDArray[Any], cotangents: Mapping[str, NDArray[Any]]) -> Gradients:
        """The gradients of ``sum over taps of sum(cotangent * tap)``.

        A cotangent on one tap alone differentiates the part of the model in front of it, so a
        mistake can be found without looking inside the backend.

        Args:
            inputs: as for :meth:`Model.forward`.
            cotangents: tap to array of the tap's shape; taps that are absent count for nothing.

        Returns:
            With respect to every weight, also those that no tap depends on (zeros), and to the
            inputs, in the profile's dtype.

        Raises:
            InputError: if the inputs or the cotangents do not fit the spec.
        """
        ...


@runtime_checkable
class Trainable(Protocol):
    """A model that can also be trained: optional, and what level L4 of conformance judges."""

    def train_step(
        self,
        state: TrainState,
        inputs: NDArray[Any],
        labels: NDArray[Any],
        *,
        loss: CrossEntropy,
        optimiser: Optimiser,
    ) -> tuple[float, TrainState]:
        """One step of training: the loss before it, and the state after it.

        A pure function: it computes from the weights in ``state``, changes neither them nor those
        that the model was loaded with, and remembers nothing.

        Args:
            state: :func:`mixer_spec.training.initial_state`, or what an earlier step returned.
            inputs: as for :meth:`Model.forward`.
            labels: ``[batch]``, whole numbers below ``spec.classes``.
            loss: what is differentiated.
            optimiser: how the weights follow the gradients.

        Raises:
            InputError: if the inputs, the labels or the state's slots do not fit.
            WeightsError: if the state's weights do not fit the spec.
        """
        ...


@runtime_checkable
class Preprocessor(Protocol):
    """A model that also makes its inputs of photos: optional, and what F29 of conformance judges."""

    def preprocess(
        self, photos: NDArray[np.uint8], preprocessing: Preprocessing
    ) -> NDArray[np.float32]:
        """What :func:`mixer_spec.preprocess.preprocess` makes of each photo, at the model's size.

        Args:
            photos: ``[batch, height, width, rgb]`` of any one size.
            preprocessing: geometry, filter, mean and std.

        Returns:
            ``[batch, height, width, rgb]``, what :meth:`Model.forward` takes.

        Raises:
            InputError: if the photos break the contract, or the model takes none.
            NotImplementedError: if the framework cannot do such a preprocessing.
        """
        ...


@runtime_checkable
class Backend(Protocol):
    """A framework that can run any spec."""

    def info(self) -> BackendInfo:
        """Versions, device and what it claims to do."""
        ...

    def load(self, spec: ModelSpec, weights: Weights, *, profile: Profile = "f32-strict") -> Model:
        """Build the model and give it the weights.

        Raises:
            WeightsError: if the weights do not fit the spec.
            UnknownNameError: if the backend does not claim the profile.
        """
        ...


def check_profile(info: BackendInfo, profile: str) -> None:
    """Refuse a profile that the backend does not claim.

    Raises:
        UnknownNameError: naming those it does claim.
    """
    if profile not in info.profiles:
        raise UnknownNameError(
            f"backend {info.name}",
            f"does not claim the profile; expected one of {list(info.profiles)}, got {profile!r}",
        )


def check_inputs(spec: ModelSpec, inputs: NDArray[Any], taps: Sequence[str] = ()) -> None:
    """Refuse inputs and taps that do not fit ``spec``; every backend calls this first.

    Args:
        spec: the architecture.
        inputs: should be ``[batch, height, width, rgb]`` or ``[batch, token, channel]`` in a
            floating dtype, or ids ``[batch, token]`` in a whole-number dtype.
        taps: should be names out of ``spec.taps``.

    Raises:
        InputError: with every rule broken.
    """
    if not isinstance(inputs, np.ndarray):
        raise InputError("inputs", f"must be a NumPy array, got {type(inputs).__name__}")
    problems = [*_wrong_shape(spec.input, inputs.shape), *_wrong_values(spec.input, inputs)]
    unknown = [tap for tap in taps if tap not in spec.taps]
    if unknown:
        near = difflib.get_close_matches(unknown[0], spec.taps, n=3)
        problems.append(
            f"unknown taps {unknown}; expected names like {near or list(spec.taps[:3])}"
        )
    if problems:
        raise InputError("inputs", problems)


def _wrong_shape(expected: ModelInput, shape: tuple[int, ...]) -> Iterator[str]:
    sizes, axes = ", ".join(map(str, expected.shape)), ", ".join(expected.axes)
    layout = f"[batch, {sizes}] (batch, {axes})"
    if len(shape) != len(expected.shape) + 1:
        yield f"wrong rank; expected {layout}, got {list(shape)}"
    elif shape[1:] != expected.shape:
        hint = ""
        if isinstance(expected, Image) and (shape[2], shape[3], shape[1]) == expected.shape:
            hint = "; these are channels first: use images.transpose(0, 2, 3, 1)"
        yield f"wrong size; expected {layout}, got {list(shape)}{hint}"
    elif shape[0] == 0:
        yield "empty batch; expected at least one, got 0"


def _wrong_values(expected: ModelInput, inputs: NDArray[Any]) -> Iterator[str]:
    if isinstance(expected, TokenIds):
        if not np.issubdtype(inputs.dtype, np.integer):
            yield f"wrong dtype; expected whole numbers (int64), got {inputs.dtype}"
        elif inputs.size and not 0 <= inputs.min() <= inputs.max() < expected.vocabulary:
            yield (
                f"ids outside of the vocabulary; expected 0 to {expected.vocabulary - 1}, "
                f"got {inputs.min()} to {inputs.max()}"
            )
    elif not np.issubdtype(inputs.dtype, np.floating):
        hint = ""
        if isinstance(expected, Image):
            hint = "; mixer_spec.preprocess turns photos into float32 pixels"
        yield f"wrong dtype; expected float32, got {inputs.dtype}{hint}"


def check_photos(photos: NDArray[Any]) -> None:
    """Refuse photos that are not uint8 ``[batch, height, width, rgb]``.

    Raises:
        InputError: with what is expected, and the dtype and shape that came.
    """
    if photos.dtype != np.uint8 or photos.ndim != 4 or photos.shape[3] != 3 or not photos.size:
        raise InputError(
            "photos",
            "expected uint8 [batch, height, width, 3] (batch, height, width, rgb), "
            f"got {photos.dtype} {list(photos.shape)}",
        )


def backend_names() -> tuple[str, ...]:
    """Names of the registered backends, whether or not their extras are installed."""
    return tuple(sorted(_registered()))


def _registered() -> dict[str, EntryPoint]:
    from importlib.metadata import entry_points  # a fifth of the time of `import mixer_spec`

    return {entry.name: entry for entry in entry_points(group=GROUP)}


def load_backend(name: str) -> Backend:
    """The backend called ``name``, or the class at ``package.module:Class``.

    Raises:
        UnknownNameError: if there is none of that name.
        MissingExtraError: if its framework is not installed; the message names the extra.
    """
    make: Any
    if ":" in name:
        make = load_or_name_extra(f"backend {name}", functools.partial(_import_object, name))
    else:
        entries = _registered()
        if name not in entries:
            near = difflib.get_close_matches(name, entries, n=3, cutoff=0.4) or sorted(entries)
            raise UnknownNameError(
                f"backend {name!r}",
                f"is not registered; expected one of {near}, or package.module:Class",
            )
        make = load_or_name_extra(f"backend {name}", entries[name].load)
    found = make() if callable(make) else make
    if not isinstance(found, Backend):
        raise UnknownNameError(
            f"backend {name!r}", f"is not a Backend; expected info() and load(), got {found!r}"
        )
    return found


def _import_object(name: str) -> Any:
    module_name, _, attribute = name.partition(":")
    try:
        return functools.reduce(getattr, attribute.split("."), importlib.import_module(module_name))
    except AttributeError:
        raise UnknownNameError(
            f"backend {name!r}", f"module {module_name} has no {attribute!r}"
        ) from None
    except ModuleNotFoundError as error:
        if error.name and module_name.split(".")[0] == error.name.split(".")[0]:
            raise UnknownNameError(
                f"backend {name!r}", f"there is no module {module_name}; is it installed?"
            ) from None
        raise
