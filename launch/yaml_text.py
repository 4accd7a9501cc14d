"""YAML as people write it: scripts as blocks, keys in our order."""

from collections.abc import Sequence
from typing import Any

import yaml


class _Dumper(yaml.SafeDumper):
    """Texts of several lines stand line by line."""


def _text(dumper: yaml.SafeDumper, value: str) -> yaml.ScalarNode:
    style = "|" if "\n" in value else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", value, style=style)


_Dumper.add_representer(str, _text)


def dump(documents: Sequence[Any]) -> str:
    """Documents with a line between them; long lines stay whole."""
    return yaml.dump_all(documents, Dumper=_Dumper, sort_keys=False, width=2**20)
