"""Unified multimodal models in JAX. `unijax.api` says what stands here."""

from typing import Any

_API = ("Chat", "Run", "config", "finetune", "load", "train")
__all__ = list(_API)


def __getattr__(name: str) -> Any:
    """Loads the interface when it is asked for: a table of runs does not wait for JAX."""
    if name not in _API:
        raise AttributeError(f"module 'unijax' has no attribute {name!r}")
    from unijax import api

    return getattr(api, name)
