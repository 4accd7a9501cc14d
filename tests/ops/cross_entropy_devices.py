"""Run by test_cross_entropy_devices.py in a process with 8 devices: head loss over each mesh."""

import dataclasses
import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from tests.ops.test_cross_entropy import assert_close, dense_loss, linear, mlp
from tests.walk import all_equations
from unijax.core.mesh import DATA, FSDP, SEQUENCE, TENSOR
from unijax.ops.cross_entropy import head_loss

B, T, D, M, V = 8, 12, 16, 20, 40
CHUNK = 4
COLLECTIVES = {"psum", "psum2", "pmax", "pmin", "all_gather", "psum_invariant"}


@dataclasses.dataclass(frozen=True)
class Case:
    """A mesh, and the specs of the parameters as they lie before the loss asks for them."""

    axes: dict[str, int]
    classes: tuple = ()  # of a matrix with the classes as its last dim
    other: tuple = ()
    v: int = V

    @property
    def mesh(self) -> Mesh:
        return Mesh(np.array(jax.devices()).reshape(*self.axes.values()), tuple(self.axes))


CASES = {
    "data": Case({DATA: 8}),
    "fsdp": Case({DATA: 2, FSDP: 4}, (FSDP,), (FSDP,)),
    "tensor": Case({DATA: 2, FSDP: 2, TENSOR: 2}, (FSDP, TENSOR), (FSDP, TENSOR)),
    "tensor that does not divide the classes": Case({DATA: 4, TENSOR: 2}, v=V - 1),
    "sequence and tensor": Case({DATA: 2, SEQUENCE: 2, TENSOR: 2}, (None, TENSOR)),
}
HEADS = {
    "linear": (linear, {"kernel": (D, V)}, True),
    "mlp": (
        mlp,
        {"fc": (D, M), "bias": (M,), "kernel": (M, V)},
        {"fc": False, "bias": False, "kernel": True},
    ),
}
# In chunks of 4: some devices have nothing to do, others a part of a chunk, or several.
WEIGHT = np.random.default_rng(1).choice([0.0, 1.0, 0.25], (B, T)).astype(np.float32)
WEIGHT[1:3] = 0
WEIGHT[3, 1:] = 0


def inputs(case: Case, shapes: dict) -> list:
    """Parameters, hidden states, targets (half of them the largest logit) and weights."""
    rng = np.random.default_rng(0)
    params = {
        name: rng.standard_normal((*s[:-1], case.v if s[-1] == V else s[-1]), np.float32)
        for name, s in shapes.items()
    }
    hidden = rng.standard_normal((B, T, D), np.float32)
    head = linear if len(params) == 1 else mlp
    best = np.argmax(head(params, hidden), axis=-1)
    target = np.where(np.arange(T) % 2, rng.integers(0, case.v, (B, T)), best).astype(np.int32)
    return [params, hidden, target, WEIGHT]


def placed(case: Case, args: list) -> list:
    params, *rest = args
    rows = P(tuple(a for a in (DATA, FSDP) if a in case.axes), SEQUENCE)
    rows = rows if SEQUENCE in case.axes else P(*rows[:1])

    def put(x, spec):
        return jax.device_put(x, NamedSharding(case.mesh, spec))

    specs = {"kernel": case.classes, "fc": case.other, "bias": ()}
    return [{n: put(x, P(*specs[n])) for n, x in params.items()}, *(put(x, rows) for x in rest)]


def both(loss):
    """Outputs, and gradients of twice the sum."""

    def of(params, hidden, target, weight):
        out = loss(params, hidden, target, weight)
        return 2 * out[0], out

    return jax.jit(jax.grad(of, (0, 1), has_aux=True))


def fused(head, by_class):
    def loss(params, hidden, target, weight):
        found = head_loss(
            head, params, hidden, target, weight, chunk=CHUNK, by_class=by_class, z_weight=0.1
        )
        return found.sum, found.nll, found.correct

    return both(loss)


def gathered(text: str) -> set[tuple[int, ...]]:
    """Shapes of what the compiled program gathers."""
    found = re.findall(r"= \(?\w+\[([\d,]*)\]\S* all-gather", text)
    return {tuple(int(n) for n in shape.split(",")) for shape in found}


def inside_loops(program) -> set[str]:
    """Collectives in the bodies of its loops."""
    loops = [e for e in all_equations(program) if e.primitive.name == "while"]
    assert loops
    bodies = [e for loop in loops for e in all_equations(loop.params["body_jaxpr"])]
    return {e.primitive.name for e in bodies} & COLLECTIVES


def check(case: Case, head, shapes, by_class) -> None:
    """The same numbers as the plain version on one device; nothing gathered but parameters."""
    args = inputs(case, shapes)
    want_grads, want = both(functools.partial(dense_loss, head, z_weight=0.1))(*args)
    program = fused(head, by_class)
    with jax.set_mesh(case.mesh):
        on_mesh = placed(case, args)
        traced = program.trace(*on_mesh)
        compiled = traced.lower().compile()
        grads, found = compiled(*on_mesh)
    jax.tree.map(assert_close, found, want)
    jax.tree.map(assert_close, grads, want_grads)
    split = TENSOR in case.axes and case.v % case.axes[TENSOR] == 0
    # Parameters end with one of these dims, in one or two parts; all else ends with D or T.
    shapes = gathered(compiled.as_text())
    assert {s[-1] for s in shapes} <= {M, M // 2, case.v, case.v // 2}, shapes
    assert bool(shapes) == (FSDP in case.axes)
    # Between devices with different rows nothing moves before the last chunk.
    assert bool(inside_loops(traced.jaxpr)) == split


def check_rows_that_do_not_divide() -> None:
    """Every device works all of them then."""
    head, shapes, by_class = HEADS["mlp"]
    for axes, part in (
        ({DATA: 8}, np.s_[:3]),
        ({SEQUENCE: 2, TENSOR: 4}, np.s_[:, :11]),
        ({DATA: 2, FSDP: 2, SEQUENCE: 2}, np.s_[:3, :11]),
    ):
        case = Case(axes)
        params, *rest = inputs(case, shapes)
        args = params, *(x[part] for x in rest)
        want = both(functools.partial(dense_loss, head, z_weight=0.1))(*args)
        with jax.set_mesh(case.mesh):
            found = fused(head, by_class)(*args)
        jax.tree.map(assert_close, found, want)


def check_empty_chunks() -> None:
    """Counted where they run: every device works the chunks that its own rows fill."""
    calls = []

    def counting(params, x):
        jax.debug.callback(lambda: calls.append(1))
        return linear(params, x)

    case = CASES["data"]
    args = inputs(case, HEADS["linear"][1])
    with jax.set_mesh(case.mesh):
        jax.block_until_ready(fused(counting, True)(*placed(case, args)))
        jax.effects_barrier()
    assert len(calls) == sum(-(-np.count_nonzero(row) // CHUNK) for row in WEIGHT)


def check_half_precision() -> None:
    """Parts of a gradient from several devices are added in float32."""
    case, (head, shapes, by_class) = CASES["tensor"], HEADS["mlp"]
    params, hidden, *rest = inputs(case, shapes)
    want, _ = both(functools.partial(dense_loss, head, z_weight=0.1))(params, hidden, *rest)
    with jax.set_mesh(case.mesh):
        args = placed(case, [params, hidden.astype(jnp.bfloat16), *rest])
        grads, _ = fused(head, by_class)(*args)
    assert (grads[0]["kernel"].dtype, grads[1].dtype) == (jnp.float32, jnp.bfloat16)
    jax.tree.map(functools.partial(assert_close, tolerance=2**-5), grads, want)


if __name__ == "__main__":
    for case in CASES.values():
        for head in HEADS.values():
            check(case, *head)
    check_rows_that_do_not_divide()
    check_empty_chunks()
    check_half_precision()
    print("equal")
