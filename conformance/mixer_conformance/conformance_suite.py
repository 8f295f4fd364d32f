"""Where pytest collects the suite; see :mod:`mixer_conformance.plugin`."""
