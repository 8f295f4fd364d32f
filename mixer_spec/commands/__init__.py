"""The commands of ``mixer-spec`` that the spec itself can answer, one a module."""
