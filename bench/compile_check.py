"""Compiles attention, forward and backward, for TPUs and GPUs that are not there.

    make compile-check
    python -m bench.compile_check [--targets v5e h100] [--cases "Janus 1B"]
    python -m bench.compile_check --targets h100 --cases --programs

Needs `jax[cuda13,tpu]` (the compilers) and no device. Every case of the table that tests and bench
share goes through the compiler of every target, in bfloat16, with what `implementation=None` picks
there; "recomputed" is the gradient of two layers under scan and remat, "over 4 chips" has heads and
positions split in two each. Prints what each kernel takes: on TPU of VMEM; on Hopper of shared
memory and registers, and what spills of the latter. With `--programs`, or where no case is named,
the programs of `make device-check` go through the compiler of Hopper too.
Ends with status 1 if a case does not compile, a kernel spills more than `--spill` bytes, or a
size that is published here, or that a config or a ladder uses, has no case.
"""

import argparse
import dataclasses
import math
import os
import re
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from bench.device_check import drawing, kernels, pieces, step
from bench.device_check.program import Program
from unijax.core.mesh import SEQUENCE, TENSOR
from unijax.main import config as config_lib
from unijax.main.run import resolve
from unijax.models import clip, eva, llama, sana, siglip, unet
from unijax.ops.attention import attention, select_implementation
from unijax.ops.attention.api import LARGEST_HEAD_DIM
from unijax.ops.attention.cases import CASES, Case
from unijax.plan import hardware, target
from unijax.systems.registry import ladders

CONFIGS = Path(__file__).parent.parent / "configs"
RECOMPUTED, SPLIT = ", recomputed", ", over 4 chips"
DUMP = Path(tempfile.mkdtemp())  # where Mosaic writes what ptxas says of a kernel
TARGETS = {
    "v5e": "v5e:2x2", "v5p": "v5p:2x2x1", "v6e": "v6e:2x2", "h100": "h100:1", "a100": "a100:1",
}  # fmt: skip


def sizes() -> dict[str, object]:
    """Every decoder, tower and U-Net that is published here, or that a config or a ladder uses."""
    published = llama.SIZES | siglip.SIZES | eva.SIZES | unet.SIZES
    published |= clip.VISION_SIZES | clip.TEXT_SIZES | sana.SIZES
    found = {name: c for name, c in published.items() if name[-5:] != "_test"}
    for name, ladder in ladders().items():
        found |= {f"{name} ladder, {w}": ladder.rung(w).config.text for w in ladder.widths}
    for path in sorted(CONFIGS.glob("*.py")):
        model = resolve(config_lib.load(str(path))).model
        parts = {f.name: getattr(model, f.name) for f in dataclasses.fields(model)}
        found |= {
            f"{path.name}, {name}": c
            for name, c in parts.items()
            if hasattr(c, "num_attention_heads")
        }
    return found


def missing_sizes() -> list[str]:
    """Those whose head dim and group no case has: more heads or rows are more of the same grid."""
    have = {(c.heads // c.kv_heads, c.head_dim) for c in CASES.values()}
    return [
        f"{name}: group and head dim {kind}"
        for name, config in sizes().items()
        for kind in kinds(config) - have
        if kind[1] <= LARGEST_HEAD_DIM  # beyond it there is no kernel
    ]


def kinds(config: object) -> set[tuple[int, int]]:
    """Heads of queries for one of keys, and the head dim, of all attention in a network."""
    if isinstance(config, unet.UNetConfig):
        levels = zip(config.block_out_channels, config.attention_levels)
        return {(1, width // config.num_attention_heads) for width, attends in levels if attends}
    if isinstance(config, sana.SanaConfig):  # to its context; among themselves it is linear
        return {(1, config.cross_attention_head_dim)}
    heads = config.num_attention_heads
    group = heads // getattr(config, "num_key_value_heads", heads)
    dim = getattr(config, "head_dim", None) or config.hidden_size // heads
    return {(group, dim)}


def variants(chips: hardware.Topology, name: str) -> list[str]:
    if name != "Janus 1B":
        return [""]
    return ["", RECOMPUTED] + [SPLIT] * (chips.size == 4)


def program(case: Case, recomputed: bool):
    def layer(q, k, v, start, end):
        return attention(q, k, v, start, end)

    def loss(q, k, v, start, end):
        if recomputed:
            body = jax.checkpoint(lambda x, _: (x + layer(x, k, v, start, end), None))
            q, _ = jax.lax.scan(body, q, None, length=2)
        else:
            q = layer(q, k, v, start, end)
        return jnp.sum(jnp.square(q.astype(jnp.float32)))

    return jax.jit(jax.value_and_grad(loss, (0, 1, 2)))


def arguments(case: Case, mesh: Mesh):
    def array(dtype, *shape):
        spec = PartitionSpec(None, SEQUENCE, TENSOR) if len(shape) > 2 else PartitionSpec()
        return jax.ShapeDtypeStruct(shape, dtype, sharding=NamedSharding(mesh, spec))

    b, d = case.rows, case.head_dim
    q = array(jnp.bfloat16, b, case.tokens, case.heads, d)
    k = array(jnp.bfloat16, b, case.keys, case.kv_heads, d)
    ends = array(jnp.int32, b, case.tokens)
    return q, k, k, ends, ends


def kernels_of_tpu(text: str) -> dict[str, str]:
    """VMEM of each kernel, from the compiled program."""
    found = {}
    for line in text.splitlines():
        name = re.search(r"%\w*interval_attention_(forward|dq|dkv)\S* =", line)
        size = re.search(r'"used_scoped_memory_configs":\[{[^}]*"size":"(\d+)"', line)
        if name and size:
            found[name[1]] = f"{int(size[1]) / 2**20:.1f} MiB VMEM"
    return found


def kernels_of_gpu(spill: int) -> dict[str, str]:
    """Registers, spills and shared memory of each Mosaic kernel, from ptxas; empties the folder.

    Raises:
      MemoryError: if a kernel spills more than `spill` bytes.
    """
    found = {}
    for report in sorted(DUMP.glob("*.ptxas")):
        name = re.search(r"interval_attention_(forward|dq|dkv)", report.read_text())
        registers = re.search(r"Used (\d+) registers", report.read_text())[1]
        spilled = int(re.search(r"(\d+) bytes spill stores", report.read_text())[1])
        passes = report.with_suffix(".mlir-passes.log").read_text()
        shared = re.search(r"dynamic_shared_memory_size %c(\d+)_i32", passes)
        found[name[1]] = f"{registers} registers, {spilled} B spilled, " + (
            f"{int(shared[1]) / 2**10:.0f} KiB shared"
        )
        if spilled > spill:
            raise MemoryError(f"{name[1]}: {found[name[1]]}")
    for path in DUMP.iterdir():
        path.unlink()
    return found


def check(chips: hardware.Topology, name: str, variant: str, spill: int) -> str:
    """Compiles a case and says what it took.

    Raises:
      Whatever the compiler does.
    """
    sides = (2, 2) if variant == SPLIT else (1, 1)
    devices = np.array(target.devices(chips)[: math.prod(sides)]).reshape(sides)
    mesh = Mesh(devices, (TENSOR, SEQUENCE))
    case = CASES[name]
    began = time.perf_counter()
    with jax.set_mesh(mesh):
        chosen = select_implementation(case.tokens, case.keys, case.head_dim, jnp.bfloat16)
        compiled = program(case, variant == RECOMPUTED).lower(*arguments(case, mesh)).compile()
    seconds = time.perf_counter() - began
    kernels = (
        kernels_of_gpu(spill)
        if chips.chip.platform == "cuda"
        else kernels_of_tpu(compiled.as_text())
    )
    memory = compiled.memory_analysis().temp_size_in_bytes / 2**20
    parts = "; ".join(f"{k} {v}" for k, v in sorted(kernels.items()))
    return f"{chosen:11} {seconds:5.0f} s  {memory:7.1f} MiB temporary  {parts}"


def device_programs(devices: list) -> Iterator[tuple[str, Callable[[], Any]]]:
    """Names of the programs of `make device-check`, and what lowers each of them."""
    mesh = Mesh(np.array(devices[:1]), (TENSOR,))
    whole = NamedSharding(mesh, PartitionSpec())

    def lower(program: Program) -> Any:
        with jax.set_mesh(mesh):
            return program.lower(whole)

    def lower_step() -> Any:
        trainer = step.trainer_of(step.FULL, devices[:1])
        batch = step.batches(step.FULL, trainer.system.layout, small=False)[0]
        return step.lowered(trainer, batch)

    with jax.set_mesh(mesh):
        of_attention = kernels.programs()  # as this device picks them
    found = [*of_attention, *pieces.programs(), *drawing.programs(batches=(8,))]
    yield from ((p.name, partial(lower, p)) for p in found)
    yield "step of Janus-Pro 1B", lower_step


def check_program(lower: Callable[[], Any], spill: int) -> str:
    """Compiles a program of `make device-check` and says what it took.

    Raises:
      Whatever the compiler does.
    """
    began = time.perf_counter()
    compiled = lower().compile()
    seconds = time.perf_counter() - began
    kernels_of_gpu(spill)
    memory = compiled.memory_analysis().temp_size_in_bytes / 2**20
    return f"{seconds:5.0f} s  {memory:9.1f} MiB temporary"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--targets", nargs="+", choices=TARGETS, default=list(TARGETS))
    parser.add_argument("--cases", nargs="*", choices=CASES)
    parser.add_argument("--programs", action="store_true", help="those of device-check, on h100")
    parser.add_argument("--spill", type=int, default=64, help="bytes a kernel may spill")
    options = parser.parse_args()
    os.environ |= {"MOSAIC_GPU_DUMP_PTXAS": "1", "MOSAIC_GPU_DUMP_TO": str(DUMP)}
    target.prepare()
    failures = [f"no case for {name}" for name in missing_sizes()]

    def tell(key: str, title: str, result: Callable[[], str]) -> None:
        try:
            words = result()
        except Exception as error:  # any refusal of any compiler
            words = f"FAILED: {str(error).splitlines()[0][:300]}"
            failures.append(f"{key}, {title}")
        print(f"{key:5} {title:26} {words}", flush=True)

    for key in options.targets:
        chips = hardware.parse(TARGETS[key])
        for name in CASES if options.cases is None else options.cases:
            for variant in variants(chips, name):
                tell(key, name + variant, partial(check, chips, name, variant, options.spill))
        if key == "h100" and (options.programs or options.cases is None):
            for name, lower in device_programs(target.devices(chips)):
                tell(key, name, partial(check_program, lower, options.spill))
    if failures:
        sys.exit("compile-check failed: " + "; ".join(failures))


if __name__ == "__main__":
    main()
