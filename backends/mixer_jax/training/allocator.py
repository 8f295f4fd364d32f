"""Freed memory stays with the process: a step's large buffers are not asked of the system anew."""

from __future__ import annotations

import ctypes
import platform

# Of mallopt, in <malloc.h> of the GNU C library.
_TRIM_THRESHOLD, _MMAP_MAX, _ARENA_MAX = -1, -4, -8


def keep_freed_memory() -> bool:
    """Let the C library keep what is freed; whether it is one that can (the GNU one).

    XLA on a CPU allocates the buffers of a step in every step. The GNU library asks the system for
    each that is large, which then clears it, page by page: half the time of a step of a small
    model. Afterwards all threads share one heap that never shrinks; the peak stays what it was.

    To be called before JAX starts its threads: one that has a heap of its own already keeps it.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    mallopt = ctypes.CDLL(None).mallopt
    never = -1
    done = [mallopt(_MMAP_MAX, 0), mallopt(_TRIM_THRESHOLD, never), mallopt(_ARENA_MAX, 1)]
    return all(done)
