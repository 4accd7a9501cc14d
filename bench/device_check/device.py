"""What is measured: the device, the driver and the packages that are there."""

import contextlib
import datetime
import importlib.metadata
import shutil
import subprocess
import sys

import jax
import jax.numpy as jnp

from bench.clock import seconds
from bench.device_check.worker import Asked, attempt, tell

PACKAGES = ("jax", "jaxlib", "jax-cuda13-plugin", "flax", "optax", "numpy", "torch")
SMI = ("nvidia-smi", "--query-gpu=name,driver_version,memory.total", "--format=csv,noheader")


def run(asked: Asked) -> None:
    tell(here())
    attempt("ceilings", asked, lambda: ceilings(512 if asked.small else 8192), needs=3)


def here() -> dict:
    """Names and versions."""
    versions = {"python": sys.version.split()[0]}
    for name in PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[name] = importlib.metadata.version(name)
    found = {
        "name": "device",
        "device": jax.devices()[0].device_kind,
        "date": datetime.date.today().isoformat(),
        "versions": versions,
    }
    if shutil.which(SMI[0]):
        done = subprocess.run(SMI, capture_output=True, text=True, timeout=10, check=False)
        found["driver"] = done.stdout.strip()
    return found


def ceilings(side: int) -> dict:
    """What plain XLA reaches here: a product of squares in bfloat16, and a copy of numbers."""
    keys = jax.random.split(jax.random.key(0))
    x, y = (jax.random.normal(key, (side, side), jnp.bfloat16) for key in keys)
    product = jax.jit(jnp.matmul).lower(x, y).compile()
    big = jnp.ones((side, 16 * side), jnp.bfloat16)
    copy = jax.jit(lambda x: x + 1).lower(big).compile()
    took = [min(seconds(call, 5)) for call in (lambda: product(x, y), lambda: copy(big))]
    return {
        "name": "ceilings",
        "product_tflops": 2.0 * side**3 / took[0] / 1e12,
        "copy_gb_per_second": 2.0 * big.nbytes / took[1] / 1e9,
    }
