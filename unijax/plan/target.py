"""The real compiler of a topology, without the hardware."""

import importlib.util
import os

import jax
from jax.experimental import topologies

from unijax.core.errors import UserError
from unijax.plan.hardware import Topology

# What the compiler asks of a GPU. Figures of NVIDIA's data sheets, as XLA prints them for one.
_GPU = """
gpu_device_info {{
  threads_per_block_limit: 1024  threads_per_warp: 32  threads_per_core_limit: 2048
  block_dim_limit_x: 2147483647  block_dim_limit_y: 65535  block_dim_limit_z: 65535
  registers_per_core_limit: 65536  registers_per_block_limit: 65536
  shared_memory_per_block: 49152  {own}
}}
platform_name: "CUDA"
runtime_version {{ major: 13 }}
dnn_version_info {{ major: 9  minor: 7 }}
device_description_str: "{name}"
"""
_HOPPER = """shared_memory_per_core: 233472  shared_memory_per_block_optin: 232448
    core_count: 132  fpus_per_core: 128  clock_rate_ghz: 1.98  l2_cache_size: 52428800
    memory_bandwidth: {bandwidth}  device_memory_size: {memory}
    cuda_compute_capability {{ major: 9 }}"""
GPUS = {
    "h100": _GPU.format(
        name="NVIDIA H100 80GB HBM3",
        own=_HOPPER.format(bandwidth=3352320000000, memory=84929347584),
    ),
    "h200": _GPU.format(
        name="NVIDIA H200", own=_HOPPER.format(bandwidth=4800000000000, memory=150120000000)
    ),
    "a100": _GPU.format(
        name="NVIDIA A100-SXM4-80GB",
        own="""shared_memory_per_core: 167936  shared_memory_per_block_optin: 166912
    core_count: 108  fpus_per_core: 64  clock_rate_ghz: 1.41  l2_cache_size: 41943040
    memory_bandwidth: 2039000000000  device_memory_size: 84929347584
    cuda_compute_capability { major: 8 }""",
    ),
}


def prepare() -> None:
    """To be called before JAX is first asked for a device: compilers run, devices do not."""
    os.environ.update(
        TPU_SKIP_MDS_QUERY="1",
        TPU_ACCELERATOR_TYPE="v5litepod-16",
        TPU_WORKER_HOSTNAMES="localhost",
        ALLOW_MULTIPLE_LIBTPU_LOAD="1",  # no device is taken
        JAX_SKIP_CUDA_CONSTRAINTS_CHECK="1",
        # Autotuning would run candidates.
        XLA_FLAGS=f"{os.environ.get('XLA_FLAGS', '')} --xla_gpu_autotune_level=0",
    )
    jax.config.update("jax_platforms", "cpu")
    # Kernels carry the places in our files that they come from: the same program would be another
    # wherever a line above them, or the folder, is another.
    jax.config.update("jax_traceback_in_locations_limit", 0)


def devices(topology: Topology) -> list:
    """Devices that programs can be compiled for, and cannot run on.

    Raises:
      UserError: where the compiler is not installed, or knows no such topology.
    """
    is_tpu = topology.chip.platform == "tpu"
    package, module = ("libtpu", "libtpu") if is_tpu else ("jax[cuda13]", "jax_cuda13_plugin")
    if importlib.util.find_spec(module) is None:
        raise UserError(
            f"--topology {topology}",
            f"no compiler for it here (no module {module})",
            f"the package {package} of this JAX ({jax.__version__})",
            f"pip install '{package}', or run `make .venv-compile/ready` and use that environment.",
        )
    try:
        if is_tpu:
            slices = {"num_slices": topology.count} if topology.count > 1 else {}
            sides = "x".join(map(str, topology.shape))
            found = topologies.get_topology_desc(
                platform="tpu", topology_name=f"{topology.key}:{sides}", **slices
            )
        else:
            found = topologies.get_topology_desc(
                "any",
                "cuda",
                target_config=GPUS[topology.key],
                topology=f"1x{topology.count}x{topology.shape[0]}",
            )
    except Exception as error:  # of several kinds, by what the compiler minds
        first = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(
            f"--topology {topology}",
            f"that its compiler has none such ({first[:200]})",
            "sides that exist: of a TPU slice, whole hosts of 2x2 chips",
            "Correct them; v5e:4x4, v5p:2x2x1 and v6e:8x16 exist.",
        ) from error
    return list(found.devices)
