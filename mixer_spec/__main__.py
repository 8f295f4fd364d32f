"""``python -m mixer_spec`` is the same as ``mixer-spec``."""

from .cli import main

if __name__ == "__main__":
    main()
