"""timm and open_clip, which nobody here wrote.

Both import torchvision for the pictures that they transform, which no test asks of them, and the
torchvision of the package index wants another PyTorch. So while they are imported, empty modules
stand in for it; nothing of that is left behind for those who ask whether torchvision is there.
"""

import contextlib
import enum
import importlib.abc
import importlib.machinery
import sys
import types
from collections.abc import Iterator

from transformers.utils import is_torchvision_available

STANDS_IN_FOR = "torchvision"


class _Interpolation(enum.Enum):
    NEAREST = "nearest"
    NEAREST_EXACT = "nearest-exact"
    BILINEAR = "bilinear"
    BICUBIC = "bicubic"
    BOX = "box"
    HAMMING = "hamming"
    LANCZOS = "lanczos"


class _Empty(types.ModuleType):
    """A module in which every name is an empty class."""

    __path__ = ()

    def __getattr__(self, name: str) -> type:
        if name.startswith("__"):
            raise AttributeError(name)
        return _Interpolation if name == "InterpolationMode" else type(name, (), {})


class _Finder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == STANDS_IN_FOR:
            return importlib.machinery.ModuleSpec(name, self, is_package=True)
        return None

    def create_module(self, spec):
        return _Empty(spec.name)

    def exec_module(self, module):
        pass


@contextlib.contextmanager
def _without_torchvision() -> Iterator[None]:
    finder = _Finder()
    sys.meta_path.insert(0, finder)
    try:
        yield
    finally:
        sys.meta_path.remove(finder)
        for name in [n for n in sys.modules if n.split(".")[0] == STANDS_IN_FOR]:
            del sys.modules[name]


is_torchvision_available()  # transformers keeps the answer: it must not be that of the stand-in
with _without_torchvision():
    import open_clip
    import timm

__all__ = ["open_clip", "timm"]
