"""Memory and time of a head's loss with its gradients: in chunks, and with all logits at once.

    python -m bench.cross_entropy [--tokens 1024] [--rounds 3] [--dtype float32]
    python -m bench.cross_entropy --dtype bfloat16 --topology v5e:4x2

Prints two tables in Markdown, of the heads of the 1B model. Memory is what the compiler reports for
temporaries of a device (`memory_analysis`), for one device with one row and for meshes of 8 (on CPU
virtual ones); nothing runs for it. With `--topology` it is that of the compiler of that hardware,
which need not be there, and nothing is timed. Time is of one device and one row of `--tokens`;
contenders take turns and the best of the rounds counts, by the clock and by processor time (all
threads): on a busy machine the second is the one to compare.
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
from unijax.core.mesh import DATA, FSDP, TENSOR
from unijax.ops.cross_entropy import head_loss
from unijax.plan import hardware
from unijax.plan.target import devices as devices_of
from unijax.plan.target import prepare
from unijax.systems.janus import SIZES

CONFIG = SIZES["janus_pro_1b"]
D, CHUNK = CONFIG.text.hidden_size, CONFIG.head_chunk
MESHES = {
    "1 device": {DATA: 1},
    "rows over 8": {DATA: 2, FSDP: 4},
    "rows over 2, classes over 4": {DATA: 2, TENSOR: 4},
}


def linear(params, x):
    return x @ params["kernel"].astype(x.dtype)


def two_layers(params, x):
    return linear(params["vision_head"], jax.nn.gelu(linear(params["proj_out"], x), False))


V, K = CONFIG.text.vocab_size, CONFIG.vq.num_embeddings
HEADS = {  # name: head, shapes of its parameters, which of them end with the classes
    f"text, linear, {V:,} classes": (linear, {"kernel": (D, V)}, {"kernel": True}),
    f"image, two layers, {K:,} classes": (
        two_layers,
        {"proj_out": {"kernel": (D, D)}, "vision_head": {"kernel": (D, K)}},
        {"proj_out": {"kernel": False}, "vision_head": {"kernel": True}},
    ),
}


def plain(head, by_class, params, hidden, target, weight):
    del by_class
    scores = jax.nn.log_softmax(head(params, hidden).astype(jnp.float32))
    return -jnp.sum(weight * jnp.take_along_axis(scores, target[..., None], axis=-1)[..., 0])


def fused(head, by_class, *inputs):
    return head_loss(head, *inputs, chunk=CHUNK, by_class=by_class).sum


LOSSES = {"all logits": plain, "in chunks": fused}


def program(loss, head, by_class, shardings=None):
    """Loss and gradients, of parameters and hidden states, which lie as `shardings` says."""
    run = jax.value_and_grad(functools.partial(loss, head, by_class), (0, 1))
    return jax.jit(run, out_shardings=(None, shardings))


def shapes_on(mesh: Mesh, shapes, by_class, tokens: int, dtype) -> list:
    """What `program` takes, one row for each group of devices that holds rows."""
    rows = tuple(a for a in (DATA, FSDP) if a in mesh.shape)
    count = int(np.prod([mesh.shape[a] for a in rows]))

    def array(shape, kind, *spec):
        return jax.ShapeDtypeStruct(shape, kind, sharding=NamedSharding(mesh, P(*spec)))

    def param(shape, last):
        spec = (
            FSDP if FSDP in mesh.shape else None,
            TENSOR if last and TENSOR in mesh.shape else None,
        )
        return array(shape, jnp.float32, *spec)

    params = jax.tree.map(param, shapes, by_class, is_leaf=lambda x: isinstance(x, tuple))
    of_positions = [(dtype, (D,)), (jnp.int32, ()), (jnp.float32, ())]
    return [params, *(array((count, tokens, *more), kind, rows) for kind, more in of_positions)]


def memory(tokens: int, dtype, devices: list) -> None:
    print(f"\nMiB of temporaries a device, rows of {tokens} tokens, {jnp.dtype(dtype)}\n")
    print("| head | mesh | all logits | in chunks |\n|---|---|---|---|")
    for title, (head, shapes, by_class) in HEADS.items():
        for name, axes in MESHES.items():
            some = np.array(devices[: int(np.prod([*axes.values()]))])
            mesh = Mesh(some.reshape(*axes.values()), tuple(axes))
            found = []
            for loss in LOSSES.values():
                with jax.set_mesh(mesh):
                    inputs = shapes_on(mesh, shapes, by_class, tokens, dtype)
                    as_inputs = jax.tree.map(lambda x: x.sharding, tuple(inputs[:2]))
                    run = program(loss, head, by_class, as_inputs)
                    compiled = run.lower(*inputs).compile()
                found.append(compiled.memory_analysis().temp_size_in_bytes / 2**20)
            print(f"| {title} | {name} | {found[0]:,.0f} | {found[1]:,.0f} |", flush=True)


def time(tokens: int, dtype, rounds: int) -> None:
    print(f"\nSeconds, one row of {tokens} tokens, {jnp.dtype(dtype)}\n")
    print("| head | positions with a target | | clock | processor | of all logits |")
    print("|---|---|---|---|---|---|")
    for title, (head, shapes, by_class) in HEADS.items():
        rng = np.random.default_rng(0)
        params = jax.tree.map(
            lambda s: 0.02 * jax.random.normal(jax.random.key(0), s),
            shapes,
            is_leaf=lambda x: isinstance(x, tuple),
        )
        hidden = jnp.asarray(rng.standard_normal((1, tokens, D), np.float32), dtype)
        target = jnp.asarray(rng.integers(0, K, (1, tokens)), jnp.int32)
        programs = {name: program(loss, head, by_class) for name, loss in LOSSES.items()}
        for share in (1.0, 0.8, 0.2, 0.0):
            weight = jnp.asarray(np.arange(tokens)[None] < share * tokens, jnp.float32)
            best = {name: np.full(2, np.inf) for name in programs}
            for i in range(rounds + 1):
                for name, run in programs.items():
                    before = spent()
                    jax.block_until_ready(run(params, hidden, target, weight))
                    if i:  # the first compiles
                        best[name] = np.minimum(best[name], spent() - before)
            whole = best["all logits"][1]
            for name, (clock, processor) in best.items():
                columns = f"{clock:.2f} | {processor:.2f} | {processor / whole:.2f}"
                print(f"| {title} | {share:.0%} | {name} | {columns} |", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tokens", type=int, default=1024, help="of the row that is timed")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--dtype", default="float32", help="of hidden states")
    parser.add_argument("--topology", help="of 8 chips: compile for them, and time nothing")
    options = parser.parse_args()
    dtype = jnp.dtype(options.dtype)
    if options.topology:
        prepare()
        devices = devices_of(hardware.parse(options.topology))
    else:
        devices = jax.devices()
    print(f"{devices[0].device_kind}, jax {jax.__version__}, chunks of {CHUNK}")
    memory(4096, dtype, devices)
    if not options.topology:
        time(options.tokens, dtype, options.rounds)


if __name__ == "__main__":
    main()
