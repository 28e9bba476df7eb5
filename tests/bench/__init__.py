"""What is measured; run as programs. Loaded before any test's module: that one may bring pytest, which is taken for the
program when it is there first."""

from tests import unprivileged

__all__ = ["unprivileged"]
