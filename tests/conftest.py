"""Shape annotations are checked in tests: the hook must stand before the first import of unijax."""

import os

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

from jaxtyping import install_import_hook

install_import_hook("unijax", "beartype.beartype")

import jax

jax.config.update("jax_default_matmul_precision", "highest")
