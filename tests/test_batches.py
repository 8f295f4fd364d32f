"""Batches: the same bits for every start, number of processes, and number of workers."""

from __future__ import annotations

import dataclasses
import logging
import multiprocessing
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

from mixer_spec.batches import Batch, Batches
from mixer_spec.data import ArraySource, Example
from mixer_spec.errors import FileError, InputError, MixerSpecError
from mixer_spec.preprocess import preprocess
from mixer_spec.recipe_parts import InceptionCrop, Mixup, NoAugmentation, NoMixup, RandAugment
from mixer_spec.recipes import recipe

COUNT, BATCH = 20, 8  # an epoch ends in the middle of a batch
IMAGES = np.random.default_rng(0).integers(0, 256, (COUNT, 12, 10, 3), np.uint8)
SOURCE = ArraySource(IMAGES, np.arange(COUNT) % 4, ("a", "b", "c", "d"), "made")


def _recipe(**changes: Any) -> Any:
    """Everything on: crops, flips, RandAugment and mixup, on images of 8 x 8."""
    base = recipe("digits")
    made = {
        "data": dataclasses.replace(
            base.data,
            image_size=(8, 8),
            crop=InceptionCrop(area=(0.2, 1.0), antialias="off"),
            flip="left_right",
        ),
        "augment": RandAugment(layers=2, magnitude=3, flavour="google"),
        "mixup": Mixup(strength=0.5, share="larger", partner="previous"),
        "batch": BATCH,
        "steps": 12,
        "schedule": dataclasses.replace(base.schedule, warm_up=1),
        **changes,
    }
    return dataclasses.replace(base, **made)


def _plain(**changes: Any) -> Any:
    """Nothing is drawn but the order."""
    data = dataclasses.replace(recipe("digits").data, image_size=(12, 10))
    return _recipe(data=data, augment=NoAugmentation(), mixup=NoMixup(), **changes)


def _same(one: Batch, other: Batch) -> bool:
    return all(
        np.array_equal(getattr(one, name), getattr(other, name))
        for name in ("images", "labels", "rows")
    )


def _joined(parts: list[Batch]) -> Batch:
    arrays = {
        name: np.concatenate([getattr(part, name) for part in parts])
        for name in ("images", "labels", "rows")
    }
    return Batch(**arrays)


@pytest.mark.parametrize("partner", ["previous", "opposite"])
@pytest.mark.parametrize("processes", [2, 4, 8])
def test_processes_share_the_batch_of_one(processes: int, partner: Any) -> None:
    mixed = _recipe(mixup=Mixup(strength=0.5, share="drawn", partner=partner))
    whole = Batches(SOURCE, mixed)
    shares = [Batches(SOURCE, mixed, process=p, processes=processes) for p in range(processes)]
    for step in range(len(whole)):  # over four ends of an epoch
        parts = [share[step] for share in shares]
        assert all(len(part.images) == BATCH // processes for part in parts)
        assert _same(_joined(parts), whole[step])


def test_rows_are_a_run_of_neighbours() -> None:
    share = Batches(SOURCE, _recipe(), process=1, processes=4)
    assert share[3].rows.tolist() == [2, 3]
    assert share[3].rows.dtype == np.int64


@pytest.mark.parametrize("start", [0, 1, 7, 11, 12])
def test_iterating_from_any_step_gives_the_batches_by_number(start: int) -> None:
    batches = Batches(SOURCE, _recipe())
    found = list(batches.iterate(start))
    assert len(found) == 12 - start
    assert all(_same(batch, batches[start + i]) for i, batch in enumerate(found))


def test_the_same_step_is_the_same_in_another_object_and_differs_from_the_next() -> None:
    one, other = (Batches(SOURCE, _recipe()) for _ in range(2))
    assert _same(one[5], other[5])
    assert not _same(one[5], one[6])


def test_another_seed_changes_order_draws_and_mixing() -> None:
    one, other = (Batches(SOURCE, _recipe(seed=seed)) for seed in (0, 1))
    assert not _same(one[0], other[0])
    orders = [
        np.concatenate([Batches(SOURCE, _plain(seed=s))[k].labels for k in (0, 1)]) for s in (0, 1)
    ]
    assert not np.array_equal(*orders)


def test_every_epoch_has_each_example_once_in_an_order_of_its_own() -> None:
    batches = Batches(SOURCE, _plain(steps=10))
    pixels = np.concatenate([batches[step].images for step in range(10)])
    expected = [preprocess(i, _plain().data.evaluation, (12, 10)).tobytes() for i in IMAGES]
    order = [expected.index(image.tobytes()) for image in pixels]
    epochs = [order[first : first + COUNT] for first in range(0, 80, COUNT)]
    assert all(sorted(epoch) == list(range(COUNT)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 4


def test_an_example_is_drawn_anew_in_each_epoch() -> None:
    one = ArraySource(IMAGES[:1], np.zeros(1, int), ("a",), "one")
    batches = Batches(one, _recipe(mixup=NoMixup(), steps=3))
    images = np.concatenate([batches[step].images for step in range(3)])
    assert len({image.tobytes() for image in images}) > 12  # of 24 draws of one image


# --- what stands in a batch -----------------------------------------------------------------


def test_pixels_are_those_of_preprocessing_where_nothing_is_drawn() -> None:
    batch = Batches(SOURCE, _plain())[0]
    assert batch.images.dtype == np.float32
    expected = {preprocess(i, _plain().data.evaluation, (12, 10)).tobytes() for i in IMAGES}
    assert {image.tobytes() for image in batch.images} <= expected
    assert batch.labels.sum(1).tolist() == [1.0] * BATCH


def test_raw_bytes_are_given_where_the_device_can_normalise() -> None:
    raw = Batches(SOURCE, _recipe(mixup=NoMixup()))[0].images
    assert raw.dtype == np.uint8
    assert Batches(SOURCE, _recipe())[0].images.dtype == np.float32


@pytest.mark.parametrize("partner", ["previous", "opposite"])
def test_mixup_mixes_pixels_and_labels_by_one_share_with_the_partner(partner: Any) -> None:
    mixed = Batches(SOURCE, _plain_with(Mixup(strength=0.5, share="larger", partner=partner)))
    plain = Batches(SOURCE, _plain())
    shares = []
    for step in range(12):
        pixels, labels = plain[step].images, plain[step].labels
        others = np.roll(np.arange(BATCH), 1) if partner == "previous" else np.arange(BATCH)[::-1]
        found = mixed[step]
        # One share explains every pixel of the batch.
        difference = (pixels - pixels[others]).astype(np.float64)
        share = ((found.images - pixels[others]) * difference).sum() / (difference**2).sum()
        shares.append(share)
        expected = share * pixels + (1 - share) * pixels[others]
        np.testing.assert_allclose(found.images, expected, atol=1e-6)
        expected = share * labels + (1 - share) * labels[others]
        np.testing.assert_allclose(found.labels, expected, atol=1e-6)
    assert min(shares) >= 0.5
    assert len({round(share, 6) for share in shares}) == 12


def _plain_with(mixup: Mixup) -> Any:
    return dataclasses.replace(_plain(), mixup=mixup)


def test_a_drawn_share_is_the_smaller_one_half_of_the_time() -> None:
    recipes = [
        _plain_with(Mixup(strength=0.5, share=share, partner="previous"))
        for share in ("drawn", "larger")
    ]
    drawn, larger = (
        [Batches(SOURCE, one)[step].labels.max(1).max() for step in range(12)] for one in recipes
    )
    assert min(larger) >= 0.5
    np.testing.assert_allclose(drawn, larger, atol=1e-6)  # the greater part is the same number
    firsts = [
        not np.array_equal(
            Batches(SOURCE, recipes[0])[s].images, Batches(SOURCE, recipes[1])[s].images
        )
        for s in range(12)
    ]
    assert 1 < sum(firsts) < 11


# --- workers --------------------------------------------------------------------------------


def test_a_killed_worker_is_replaced_and_the_bits_are_the_same(
    caplog: pytest.LogCaptureFixture,
) -> None:
    # Batches of 1.5 MB, so that a worker dies in the middle of its work.
    big = _recipe(data=dataclasses.replace(_recipe().data, image_size=(64, 64)), batch=32, steps=14)
    expected = Batches(SOURCE, big)
    found = []
    with caplog.at_level(logging.WARNING, "mixer_spec.batches"):
        for batch in Batches(SOURCE, big, workers=1).iterate(1):
            assert type(batch.images) is np.ndarray
            found.append(batch)
            if len(found) == 3:
                (worker,) = multiprocessing.active_children()
                worker.kill()
    assert len(found) == 13
    assert all(_same(batch, expected[1 + i]) for i, batch in enumerate(found))
    assert "a data worker died before step" in caplog.text
    assert not multiprocessing.active_children()


def test_workers_that_always_die_are_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    batches = Batches(SOURCE, _recipe(), workers=2)
    starts = []

    class Dead:
        def __init__(self, step: int) -> None:
            starts.append(step)

        def __iter__(self) -> Any:
            return self

        def __next__(self) -> Any:
            raise RuntimeError("Worker process was terminated unexpectedly with exit code -9.")

        def close(self) -> None:
            pass

    monkeypatch.setattr(batches, "_ahead", Dead)
    with pytest.raises(MixerSpecError, match="died 3 times before step 4; expected workers that"):
        list(batches.iterate(4))
    assert starts == [4, 4, 4]


def test_grain_says_of_a_dead_worker_what_is_looked_for() -> None:
    import inspect

    from grain._src.python.dataset.transformations import process_prefetch

    from mixer_spec import batches

    assert batches._DEAD in inspect.getsource(process_prefetch)


@pytest.mark.slow
def test_workers_end_when_their_parent_is_killed(tmp_path: Path) -> None:
    script = tmp_path / "train.py"
    script.write_text(
        "import dataclasses, time\n"
        "from mixer_spec.batches import Batches\n"
        "from mixer_spec.data import open_source\n"
        "from mixer_spec.recipes import recipe\n"
        "if __name__ == '__main__':\n"
        "    batches = Batches(open_source('digits', 'train'), recipe('digits'), workers=1)\n"
        "    for batch in batches.iterate():\n"
        "        print(len(batch.rows), flush=True)\n"
        "        time.sleep(60)\n"
    )
    parent = subprocess.Popen([sys.executable, str(script)], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    assert parent.stdout.readline() == "64\n"
    children = psutil.Process(parent.pid).children()
    workers = [child for child in children if "spawn_main" in " ".join(child.cmdline())]
    assert len(workers) == 1
    parent.kill()
    parent.wait()
    _, alive = psutil.wait_procs(workers, timeout=20)
    parent.stdout.close()
    assert not alive


# --- bad input ------------------------------------------------------------------------------


class _Damaged:
    """A source of which some images cannot be read."""

    classes = SOURCE.classes
    fingerprint = "0" * 64

    def __init__(self, bad: set[int]) -> None:
        self.bad = bad

    def __len__(self) -> int:
        return COUNT

    def __getitem__(self, number: int) -> Example:
        if number in self.bad:
            raise FileError(f"{number}.png", "cannot be decoded; is it whole?")
        return SOURCE[number]

    def label(self, number: int) -> int:
        return SOURCE.label(number)


def _going_on(base: Any) -> Any:
    return dataclasses.replace(base, data=dataclasses.replace(base.data, unreadable="next"))


def test_an_unreadable_image_stops_by_default_and_is_named() -> None:
    batches = Batches(_Damaged({7}), _plain())
    for every in (batches.iterate(), map(batches.__getitem__, range(3))):
        with pytest.raises(FileError, match=r"7\.png: cannot be decoded"):
            list(every)


def test_an_unreadable_image_is_named_through_a_worker() -> None:
    with pytest.raises(FileError, match=r"7\.png: cannot be decoded"):
        list(Batches(_Damaged({7}), _plain(), workers=1).iterate())


def test_the_next_of_the_order_takes_its_place_where_the_recipe_says_so() -> None:
    good, bad = Batches(SOURCE, _plain()), Batches(_Damaged({3, 7}), _going_on(_plain()))
    named: list[str] = []
    positions = np.concatenate([good[step].images for step in range(5)])
    found = np.concatenate([bad[step].images for step in range(5)])
    for step in range(5):
        named += bad[step].unreadable
    changed = [i for i in range(40) if not np.array_equal(positions[i], found[i])]
    assert len(changed) == 4  # two images, two epochs
    assert {text.split(":")[0] for text in named} == {"example 3", "example 7"}
    assert all("cannot be decoded; is it whole?" in text for text in named)
    for i in changed:
        assert (
            any(np.array_equal(found[i], positions[i + k]) for k in (1, 2) if i + k < 40) or i > 37
        )


def test_processes_and_resumption_agree_on_what_takes_the_place() -> None:
    going_on = _going_on(_recipe())
    source = _Damaged({0, 5, 6, 19})
    whole = Batches(source, going_on)
    for step in (0, 2, 7):
        parts = [Batches(source, going_on, process=p, processes=2)[step] for p in range(2)]
        assert _same(_joined(parts), whole[step])


def test_no_readable_image_at_all_is_an_error() -> None:
    with pytest.raises(InputError, match="no image can be read"):
        Batches(_Damaged(set(range(COUNT))), _going_on(_plain()))[0]


def test_an_odd_size_is_an_unreadable_image_too() -> None:
    small = dataclasses.replace(_plain().data, image_size=(8, 8))
    with pytest.raises(InputError, match="expected height x width 8 x 8"):
        Batches(SOURCE, dataclasses.replace(_plain(), data=small))[0]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"processes": 3}, "does not divide among the processes; expected a multiple of 3, got 8"),
        ({"process": 2, "processes": 2}, "there is no such process; expected 0 to 1, got 2"),
    ],
)
def test_a_batch_that_does_not_divide_is_refused(arguments: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        Batches(SOURCE, _recipe(), **arguments)


def test_steps_outside_of_the_recipe_are_refused() -> None:
    batches = Batches(SOURCE, _recipe())
    for step in (-1, 12):
        with pytest.raises(IndexError):
            batches[step]
