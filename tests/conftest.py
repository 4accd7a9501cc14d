"""Shape annotations are checked in tests: the hook must stand before the first import of unijax."""

import os
import pathlib
import signal

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")  # of torch: tests run side by side
# Programs of tests run once or twice: what makes them fast costs more than it saves.
os.environ.setdefault(
    "XLA_FLAGS",
    "--xla_backend_optimization_level=1 --xla_llvm_disable_expensive_passes=true "
    "--xla_cpu_parallel_codegen_split_count=1",
)
# Most of a test's time is compiling: what was compiled once is kept.
CACHE = pathlib.Path(__file__).parent.parent / ".pytest_cache" / "jax"
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(CACHE))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.2")

# A job in the background ignores Ctrl-C and so would the programs that tests interrupt.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

from jaxtyping import install_import_hook

install_import_hook("unijax", "beartype.beartype")

import hypothesis
import jax
import pytest

from tests.buckets import bucket  # noqa: F401  (a fixture)
from tests.long import LONG

jax.config.update("jax_default_matmul_precision", "highest")

# The gate tries the same examples every time; `make test-long` looks for others.
hypothesis.settings.register_profile("gate", derandomize=True)
if not LONG:
    hypothesis.settings.load_profile("gate")

MAPS = pathlib.Path("/proc/self/maps")
MOST_MAPS = 20_000


@pytest.fixture(autouse=True, scope="module")
def programs_are_forgotten():
    """Each compiled program takes some of the 65,530 maps of a process: beyond, JAX crashes."""
    yield
    if MAPS.exists() and len(MAPS.read_text().splitlines()) > MOST_MAPS:
        jax.clear_caches()
