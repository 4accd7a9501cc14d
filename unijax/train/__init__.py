"""State, stages, step, the one loop, checkpoints, metrics. Called, it is `unijax.api.train`."""

import importlib
import sys
import types
from typing import Any


class _Called(types.ModuleType):
    """A package that is a function of the interface as well: both are called `unijax.train`."""

    def __call__(self, *args: Any, **options: Any) -> Any:
        return importlib.import_module("unijax.api").train(*args, **options)


sys.modules[__name__].__class__ = _Called
