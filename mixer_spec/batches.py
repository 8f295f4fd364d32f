"""Batches of training examples as a pure function of the step, on any number of processes.

Position ``p`` of the training, counted from 0 over all steps, rows and epochs, is row
``p % batch`` of step ``p // batch``. Which example stands there, and everything random that happens
to it, follow from the recipe's seed and from ``p``; so neither where a run was resumed, nor how
many processes share a batch, nor how many workers prepare it, changes a bit.
"""

from __future__ import annotations

import hashlib
import logging
import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .augment import augment
from .data.source import Example, Source
from .errors import FileError, InputError, MixerSpecError
from .extras import load_or_name_extra
from .preprocess.pixels import normalise
from .recipe import Recipe
from .recipe_parts import AsEvaluated, Mixup, NoMixup

_THREADS, _AHEAD = 4, 4  # threads, and batches that they prepare, where there are no workers
_DEATHS = 3  # of a worker before the same step, after which there is no point in another
_DEAD = "Worker process was terminated unexpectedly"  # how Grain says so

_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Batch:
    """One process's rows of the batch of one step.

    Args:
        images: ``[row, height, width, rgb]``, as the model takes them; or in uint8, a quarter of
            the bytes, to be normalised by the recipe's mean and standard deviation on the device.
            Which of the two is a matter of the recipe alone.
        labels: ``[row, class]``: one-hot, mixed as the images are.
        rows: ``[row]``, which rows of the global batch these are.
        unreadable: what is wrong with each image that another one took the place of.
    """

    images: NDArray[np.float32] | NDArray[np.uint8]
    labels: NDArray[np.float32]
    rows: NDArray[np.int64]
    unreadable: tuple[str, ...] = ()


class Batches:
    """The training batches of a recipe: ``batches[step]``, or ``batches.iterate(start)``.

    The order of an epoch is a new one each time, and every example is in it once. A batch may hold
    the end of one epoch and the beginning of the next.

    Args:
        source: the examples.
        recipe: the order's seed, the batch's size, crops, augmentation and mixup.
        process: the number of this process, among
        processes: those that share each batch: each has an equal run of neighbouring rows.
        workers: processes of their own that :meth:`iterate` has batches prepared by; 0 for threads.

    Raises:
        InputError: if the batch does not divide among the processes, or there are no examples.
        MissingExtraError: if Grain is not installed.
    """

    def __init__(
        self,
        source: Source,
        recipe: Recipe,
        *,
        process: int = 0,
        processes: int = 1,
        workers: int = 0,
    ) -> None:
        problems = []
        if not 0 <= process < processes:
            problems.append(
                f"there is no such process; expected 0 to {processes - 1}, got {process}"
            )
        elif recipe.batch % processes:
            problems.append(
                "the global batch does not divide among the processes; expected a multiple of "
                f"{processes}, got {recipe.batch}"
            )
        if not len(source):
            problems.append("there are no examples; expected at least one")
        if problems:
            raise InputError("batches", problems)
        grain = load_or_name_extra("batches", _import_grain)
        count = recipe.batch // processes
        rows = np.arange(process * count, (process + 1) * count)
        order = grain.MapDataset.range(len(source)).shuffle(seed=_key(recipe.seed, "order"))
        self._steps = grain.MapDataset.range(recipe.steps).map(
            _OneBatch(source, recipe, rows, order.repeat())
        )
        self._grain = grain
        self._workers = workers

    def __len__(self) -> int:
        """The steps of the recipe."""
        return len(self._steps)

    def __getitem__(self, step: int) -> Batch:
        """The batch of one step, prepared here and now.

        Raises:
            IndexError: if the recipe has no such step.
            FileError, InputError: if an image cannot be read, and the recipe does not go on.
        """
        if not 0 <= step < len(self):
            raise IndexError(f"step {step} of {len(self)}")
        return _batch(self._steps[step])

    def iterate(self, start: int = 0) -> Iterator[Batch]:
        """The batches from step ``start`` to the last, prepared in advance; the same as by number.

        A worker process that dies is replaced, and its batches are prepared again.

        Raises:
            FileError, InputError: as :meth:`__getitem__`.
            MixerSpecError: if workers die again and again before the same step.
        """
        step = reached = start
        deaths = 0
        while step < len(self):
            ahead = iter(self._ahead(step))
            try:
                for arrays in ahead:
                    yield _batch(arrays)
                    step += 1
            except RuntimeError as error:
                if _DEAD not in str(error):
                    raise
                deaths = deaths + 1 if step == reached else 1
                reached = step
                if deaths == _DEATHS:
                    raise MixerSpecError(
                        "data workers",
                        f"died {deaths} times before step {step}; expected workers that live; "
                        f"is the memory full? do fewer workers, got {self._workers}; {error}",
                    ) from error
                _log.warning("a data worker died before step %d and is replaced: %s", step, error)
            finally:
                ahead.close()

    def _ahead(self, start: int) -> Any:
        """Grain's data set of the steps from ``start``, prefetched."""
        rest = self._steps[start:]
        if not self._workers:
            options = self._grain.ReadOptions(num_threads=_THREADS, prefetch_buffer_size=_AHEAD)
            return rest.to_iter_dataset(options)
        alone = self._grain.ReadOptions(num_threads=0, prefetch_buffer_size=0)
        many = self._grain.MultiprocessingOptions(
            num_workers=self._workers, per_worker_buffer_size=2
        )
        return rest.to_iter_dataset(alone).mp_prefetch(many, worker_init_fn=_begin_worker)


def _import_grain() -> Any:
    import grain
    from absl import flags

    if not flags.FLAGS.is_parsed():  # Grain asks for flags of its own, which only absl's apps parse
        flags.FLAGS.mark_as_parsed()
    return grain


def _batch(arrays: Mapping[str, Any]) -> Batch:
    """The batch in arrays of its own; those of a worker lie in memory that is given back."""
    return Batch(
        unreadable=tuple(arrays["unreadable"]),
        **{name: np.array(arrays[name]) for name in ("images", "labels", "rows")},
    )


def _begin_worker(worker: int, workers: int) -> None:
    """End with the parent, even where it is killed; and leave an interrupt to it."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    signal.signal(signal.SIGINT, signal.SIG_IGN)

    def follow() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=follow, daemon=True).start()


def _key(seed: int, purpose: str) -> int:
    """A seed of 32 bits for one purpose."""
    return int.from_bytes(hashlib.sha256(f"{seed}/{purpose}".encode()).digest()[:4], "little")


def _generator(seed: int, purpose: str, position: int) -> np.random.Generator:
    """A generator of its own for one position: nothing that is drawn moves anything else."""
    key = _key(seed, purpose)
    return np.random.Generator(np.random.Philox(key=key, counter=[0, 0, 0, position]))


@dataclass(frozen=True, slots=True)
class _OneBatch:
    """From a step to its batch; what a worker process is sent."""

    source: Source
    recipe: Recipe
    rows: NDArray[np.int64]
    order: Sequence[int]  # without end: the example at each position

    def __call__(self, step: int) -> dict[str, Any]:
        recipe, unreadable = self.recipe, list[str]()
        partners = self._partners(recipe.mixup) if isinstance(recipe.mixup, Mixup) else self.rows
        # Most rows are also the partner of another one: none is prepared twice.
        needed, places = np.unique(np.concatenate([self.rows, partners]), return_inverse=True)
        prepared, one_hot = self._prepared(int(step) * recipe.batch + needed, unreadable)
        own, others = np.split(places, 2)
        images, labels = prepared[own], one_hot[own]
        if isinstance(recipe.mixup, Mixup):
            share = self._share(recipe.mixup, int(step))
            images = share * images + (1 - share) * prepared[others]
            labels = share * labels + (1 - share) * one_hot[others]
        # A dict of arrays, which Grain hands on in shared memory.
        return {"images": images, "labels": labels, "rows": self.rows, "unreadable": unreadable}

    def _partners(self, mixup: Mixup) -> NDArray[np.int64]:
        """The row of the global batch that each row is mixed with."""
        if mixup.partner == "previous":
            return (self.rows - 1) % self.recipe.batch
        return self.recipe.batch - 1 - self.rows

    def _share(self, mixup: Mixup, step: int) -> np.float32:
        """Of each example itself, in the whole batch."""
        drawn = _generator(self.recipe.seed, "mixup", step).beta(mixup.strength, mixup.strength)
        return np.float32(max(drawn, 1 - drawn) if mixup.share == "larger" else drawn)

    def _prepared(
        self, positions: NDArray[np.int64], unreadable: list[str]
    ) -> tuple[NDArray[Any], NDArray[np.float32]]:
        """The images and the one-hot labels at some positions."""
        found = [self._readable(int(position), unreadable) for position in positions]
        labels = np.zeros((len(found), len(self.source.classes)), np.float32)
        labels[np.arange(len(found)), [example.label for example, _ in found]] = 1
        return np.stack([image for _, image in found]), labels

    def _readable(self, position: int, unreadable: list[str]) -> tuple[Example, NDArray[Any]]:
        """The example at a position or, if the recipe says so, the next that can be read."""
        generator = _generator(self.recipe.seed, "augment", position)
        for place in range(position, position + len(self.source)):
            number = int(self.order[place])
            try:
                example = self.source[number]
                return example, self._pixels(example.image, generator)
            except (FileError, InputError) as error:
                if self.recipe.data.unreadable == "stop":
                    raise
                unreadable.append(f"example {number}: {error}")
        raise InputError(
            "batches", ["no image can be read; expected at least one", *unreadable[:10]]
        )

    def _pixels(self, image: NDArray[np.uint8], generator: np.random.Generator) -> NDArray[Any]:
        """One image, raw if the device is to normalise it."""
        data = self.recipe.data
        pixels = augment(image, data, self.recipe.augment, generator)
        if (
            pixels.dtype == np.uint8
            and isinstance(self.recipe.mixup, NoMixup)
            and not isinstance(data.crop, AsEvaluated)
        ):
            return pixels
        return normalise(pixels, data.evaluation)
