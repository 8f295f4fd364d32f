"""From a file, a Pillow image or an array to an 8-bit RGB image.

Rules, the same in every official pipeline: alpha is dropped without blending, grey is repeated,
a palette is looked up, CMYK goes through Pillow's conversion, and of 16 bits the high byte stays.
Of an animation the first frame is taken.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from mixer_spec.errors import FileError, InputError

if TYPE_CHECKING:
    from PIL.Image import Image

_EIGHT_BITS = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr")
_SIXTEEN_BITS = ("I", "I;16", "I;16L", "I;16B", "I;16N")


def decode(
    photo: str | os.PathLike[str] | Image | NDArray[Any], orientation: Literal["stored", "exif"]
) -> Image:
    """The photo as an 8-bit RGB image of at least one pixel.

    Args:
        photo: a file in any format that Pillow reads, a Pillow image, or ``[height, width, rgb]``
            in uint8.
        orientation: whether the EXIF tag turns it; see :class:`Preprocessing`.

    Raises:
        FileError: if the file is missing, no image, truncated, or a decompression bomb.
        InputError: if the array or the image's mode breaks the contract.
    """
    from PIL import Image

    if isinstance(photo, np.ndarray):
        return Image.fromarray(_checked_array(photo))
    if isinstance(photo, Image.Image):
        return _to_rgb(photo, orientation, "image")
    if isinstance(photo, str | os.PathLike):
        return _read(Path(photo), orientation)
    raise InputError(
        "image",
        f"expected a path, a Pillow image or a uint8 array, got {type(photo).__name__}",
    )


def _checked_array(array: NDArray[Any]) -> NDArray[np.uint8]:
    problems = []
    if array.ndim != 3 or array.shape[2] != 3:
        problems.append(
            f"wrong shape; expected [height, width, 3] (height, width, rgb), "
            f"got {list(array.shape)}"
        )
    if array.dtype != np.uint8:
        problems.append(f"wrong dtype; expected uint8 from 0 to 255, got {array.dtype}")
    if array.size == 0:
        problems.append(f"has no pixels; expected at least one, got {list(array.shape)}")
    if problems:
        raise InputError("image", problems)
    return np.ascontiguousarray(array)


def _read(path: Path, orientation: Literal["stored", "exif"]) -> Image:
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(path) as image:
            return _to_rgb(image, orientation, str(path))
    except InputError:
        raise
    except FileNotFoundError:
        raise FileError(str(path), "there is no such file") from None
    except UnidentifiedImageError:
        raise FileError(
            str(path), "is not an image that Pillow reads; expected PNG, JPEG or the like"
        ) from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise FileError(str(path), f"is too large to decode safely: {error}") from None
    # Pillow's decoders raise whatever a broken file makes them run into.
    except Exception as error:
        raise FileError(
            str(path), f"cannot be decoded; is it whole? {type(error).__name__}: {error}"
        ) from error


def _to_rgb(image: Image, orientation: Literal["stored", "exif"], where: str) -> Image:
    from PIL import ImageOps

    if 0 in image.size:
        raise InputError(
            where, f"has no pixels; expected at least one, got width x height {image.size}"
        )
    if image.mode not in _EIGHT_BITS + _SIXTEEN_BITS:
        raise InputError(
            where,
            f"unknown range of values; expected 8- or 16-bit whole numbers, got the Pillow mode "
            f"{image.mode!r}; convert it to RGB first",
        )
    image.load()  # here, so that a truncated file fails before anything else
    if orientation == "exif":
        image = ImageOps.exif_transpose(image)
    if image.mode in _SIXTEEN_BITS:
        image = _high_byte(image, where)
    elif image.mode in ("P", "PA"):
        # Through RGBA, since Pillow warns when it has to drop a palette's transparency.
        image = image.convert("RGBA")
    return image.convert("RGB")


def _high_byte(image: Image, where: str) -> Image:
    """The upper 8 of 16 bits; Pillow's own conversion would clip at 255 instead."""
    from PIL import Image

    values = np.asarray(image)
    if values.min() < 0 or values.max() > 65535:
        raise InputError(
            where,
            f"values out of range; expected 16-bit ones from 0 to 65535, "
            f"got {values.min()} to {values.max()}",
        )
    return Image.fromarray((values >> 8).astype(np.uint8))
