"""Memory and time of contrastive losses with their gradients: in tiles, and of all logits.

    python -m bench.pair_loss [--width 1024] [--chunk 1024] [--rounds 3]
    python -m bench.pair_loss --topology v5e:4x2

Prints two tables in Markdown. Memory is what the compiler reports for temporaries of a device
(`memory_analysis`), for one device and for rows over 8 (on CPU virtual ones); nothing runs for it.
With `--topology` it is that of the compiler of that hardware, which need not be there, and nothing
is timed. Time is of one device; contenders take turns and the best of the rounds counts, by the
clock and by processor time (all threads): on a busy machine the second is the one to compare.
"""

import argparse
import functools
import os

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ["XLA_FLAGS"] = (
    os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8"
)

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from bench.attention_chunked import spent
from unijax.core.mesh import DATA
from unijax.ops.pair_loss import sigmoid_loss, softmax_loss
from unijax.plan import hardware
from unijax.plan.target import devices as devices_of
from unijax.plan.target import prepare

BATCHES = (4096, 16384, 131072)
TIMED = (1024, 4096)


def dense_softmax(images, texts, scale, weight, label):
    del label
    logits = scale * images @ texts.T
    own = jnp.diag(logits)
    asked = jax.nn.logsumexp(logits, axis=1) + jax.nn.logsumexp(logits, axis=0) - 2 * own
    return jnp.sum(weight * asked) / 2


def dense_sigmoid(images, texts, scale, weight, label):
    logits = scale * images @ texts.T - 10.0
    signed = jnp.where(label[:, None] == label, logits, -logits)
    return -jnp.sum(weight[:, None] * weight * jax.nn.log_sigmoid(signed))


def tiled_softmax(chunk, images, texts, scale, weight, label):
    del label
    return softmax_loss(images, texts, scale, weight, chunk=chunk).sum


def tiled_sigmoid(chunk, images, texts, scale, weight, label):
    bias = jnp.float32(-10.0)
    return sigmoid_loss(images, texts, scale, bias, weight, label, chunk=chunk).sum


LOSSES = {"softmax": (dense_softmax, tiled_softmax), "sigmoid": (dense_sigmoid, tiled_sigmoid)}


def programs(name: str, chunk: int) -> dict:
    dense, tiled = LOSSES[name]
    losses = {"all logits": dense, "in tiles": functools.partial(tiled, chunk)}
    return {title: jax.jit(jax.value_and_grad(f, (0, 1, 2))) for title, f in losses.items()}


def shapes_on(mesh: Mesh, rows: int, width: int) -> list:
    """What a loss takes, rows over the devices."""

    def array(shape, dtype):
        spec = P(DATA) if shape else P()
        return jax.ShapeDtypeStruct(shape, dtype, sharding=NamedSharding(mesh, spec))

    features = array((rows, width), jnp.float32)
    of_row = [array((rows,), dtype) for dtype in (jnp.float32, jnp.int32)]
    return [features, features, array((), jnp.float32), *of_row]


def memory(width: int, chunk: int, devices: list) -> None:
    print(f"\nMiB of temporaries a device, width {width}, tiles of {chunk}, float32\n")
    print("| loss | batch | devices | all logits | in tiles |\n|---|---|---|---|---|")
    for name in LOSSES:
        for rows in BATCHES:
            for count in (1, 8):
                mesh, found = Mesh(np.array(devices[:count]), (DATA,)), []
                with jax.set_mesh(mesh):
                    inputs = shapes_on(mesh, rows, width)
                    for run in programs(name, chunk).values():
                        used = run.lower(*inputs).compile().memory_analysis()
                        found.append(f"{used.temp_size_in_bytes / 2**20:,.0f}")
                print(f"| {name} | {rows:,} | {count} | {' | '.join(found)} |", flush=True)


def time(width: int, chunk: int, rounds: int) -> None:
    print(f"\nSeconds on one device, width {width}, tiles of {chunk}, float32\n")
    print("| loss | batch | | clock | processor | of all logits |\n|---|---|---|---|---|---|")
    for name in LOSSES:
        for rows in TIMED:
            rng = np.random.default_rng(0)
            images, texts = rng.standard_normal((2, rows, width), np.float32) / width**0.5
            ones, label = np.ones(rows, np.float32), np.arange(rows, dtype=np.int32)
            inputs = jax.device_put([images, texts, np.float32(10), ones, label])
            contenders = programs(name, chunk)
            best = {title: np.full(2, np.inf) for title in contenders}
            for i in range(rounds + 1):
                for title, run in contenders.items():
                    before = spent()
                    jax.block_until_ready(run(*inputs))
                    if i:  # the first compiles
                        best[title] = np.minimum(best[title], spent() - before)
            for title, (clock, processor) in best.items():
                of_all = processor / best["all logits"][1]
                columns = f"{clock:.2f} | {processor:.2f} | {of_all:.2f}"
                print(f"| {name} | {rows:,} | {title} | {columns} |", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--width", type=int, default=1024, help="of the common space")
    parser.add_argument("--chunk", type=int, default=1024, help="side of a tile")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--topology", help="of 8 chips: compile for them, and time nothing")
    options = parser.parse_args()
    if options.topology:
        prepare()
        devices = devices_of(hardware.parse(options.topology))
    else:
        devices = jax.devices()
    print(f"{devices[0].device_kind}, jax {jax.__version__}")
    memory(options.width, options.chunk, devices)
    if not options.topology:
        time(options.width, options.chunk, options.rounds)


if __name__ == "__main__":
    main()
