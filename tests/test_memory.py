"""Large arrays: the same bits in a row, made one ahead, and given back to the system."""

from __future__ import annotations

import itertools
import threading
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from mixer_converters.containers.mapped import map_file, release, view
from mixer_spec.memory import ahead, contiguous


@pytest.mark.parametrize("dtype", [np.float32, np.float64, ml_dtypes.bfloat16, ">f4"])
@pytest.mark.parametrize("shape", [(64, 64), (130, 201), (63, 500), (1, 70), (4, 70, 66), (0, 90)])
def test_contiguous_keeps_every_bit(shape: tuple[int, ...], dtype: Any) -> None:
    size = int(np.prod(shape)) * np.dtype(dtype).itemsize
    noise = np.random.default_rng(0).bytes(size)  # with NaN of every payload
    array = np.frombuffer(noise, dtype).reshape(shape)
    for given in (array, array.T, array[::2], array[..., ::-1]):
        found = contiguous(given)
        assert found.flags.c_contiguous
        assert found.dtype == given.dtype
        assert found.tobytes() == given.tobytes()


def test_contiguous_copies_nothing_that_is_so_already() -> None:
    array = np.zeros((100, 100), np.float32)
    assert contiguous(array) is array


def test_no_more_than_one_is_made_ahead_and_in_another_thread() -> None:
    made: list[int] = []

    def make(number: int) -> int:
        assert threading.current_thread() is not threading.main_thread()
        made.append(number)
        return number

    for number in ahead(make, range(6)):
        assert max(made, default=0) <= number + 1
    assert made == list(range(6))
    assert list(ahead(make, [])) == []


def test_an_error_comes_where_its_value_would_and_an_early_end_is_clean() -> None:
    coming = ahead(lambda number: 1 / number, [2, 1, 0, 4])
    assert list(itertools.islice(coming, 2)) == [0.5, 1.0]
    with pytest.raises(ZeroDivisionError):
        next(coming)
    before = threading.active_count()
    for _ in ahead(str, range(5)):
        break
    assert threading.active_count() <= before


def resident() -> int:
    """Bytes of mapped files that this process has in memory."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("RssFile"))


def test_memory_of_a_view_is_given_back_and_its_values_stay(tmp_path: Path) -> None:
    values = np.arange(8_000_000, dtype=np.float32)
    values.tofile(tmp_path / "values")
    array = view(map_file(tmp_path / "values"), 0, np.dtype("<f4"), (2000, 4000)).T
    before = resident()
    assert array.sum() > 0
    assert resident() - before > 0.9 * values.nbytes
    release(array)
    assert resident() - before < 0.1 * values.nbytes
    np.testing.assert_array_equal(array.T.reshape(-1), values)
    release(np.ones(3))  # which is no view of a file
