"""Runs Mosaic GPU kernels on the CPU: jax's interpreter of them, with what it lacks in 0.10.

jax simulates memory, threads and barriers. Added here: loads with a layout, layout casts, and
products whose left factor or whose accumulator lives in registers. An accumulator is used in a
straight line of code only, so it is a cell that tracing fills anew.
"""

import contextlib
import dataclasses
import functools
import threading
from unittest import mock

import jax
import jax.numpy as jnp
from jax import Array
from jax._src import core as jax_core
from jax._src.pallas import primitives as pallas_primitives
from jax._src.pallas.mosaic.interpret import thread_map
from jax._src.pallas.mosaic_gpu import core as gpu_core
from jax._src.pallas.mosaic_gpu import primitives as gpu_primitives
from jax._src.pallas.mosaic_gpu.interpret import gpu_callbacks, jaxpr_interpret
from jax._src.pallas.mosaic_gpu.interpret.params import InterpretGPUParams
from jax._src.state import discharge
from jax._src.state import primitives as state_primitives
from jax._src.state import types as state_types

# Interpreted programs are long and run for a moment.
QUICK_COMPILE = {
    "xla_backend_optimization_level": 0,
    "xla_llvm_disable_expensive_passes": True,
}


@dataclasses.dataclass
class Cell:
    value: Array


class Interpreter(jaxpr_interpret.JaxprInterpreter):
    def interpret(self, jaxpr, token, *args):
        env = dict(zip((*jaxpr.constvars, *jaxpr.invars), args))

        def read(atom):
            return atom.val if isinstance(atom, jax_core.Literal) else env[atom]

        for eqn in jaxpr.eqns:
            values = [read(x) for x in eqn.invars]
            rule = RULES.get(eqn.primitive)
            if eqn.primitive is pallas_primitives.run_scoped_p and _in_registers(eqn):
                rule = _run_scoped
            if eqn.primitive is state_primitives.get_p and isinstance(values[0], Cell):
                rule = _deref
            if rule is not None:
                token, out = rule(self, eqn, token, values)
            else:
                token, out = self._by_jax(eqn, token, values)
            env.update(zip(eqn.outvars, out))
        return token, [read(x) for x in jaxpr.outvars]

    def _by_jax(self, eqn, token, values):
        pairs = zip(eqn.invars, values)
        given = {x: v for x, v in pairs if not isinstance(x, jax_core.Literal)}
        wanted = [x for x in eqn.outvars if not isinstance(x, jax_core.DropVar)]
        alone = jax_core.Jaxpr((), list(given), wanted, [eqn], eqn.effects)
        token, out = super().interpret(alone, token, *given.values())
        by_name = dict(zip(wanted, out))
        return token, [by_name.get(x) for x in eqn.outvars]

    def reader(self):
        """Which thread reads, as versions of jax name it."""
        if jax.__version_info__ < (0, 11):
            return dict(
                device_id=jnp.int32(self.device_info.device_id),
                grid_point_coords=self.grid_point_coords,
                thread_id=self.thread_id,
            )
        return dict(mesh_location=self.mesh_location, thread=self.thread)

    def read(self, token, aval, key, transforms, eqn):
        """The part of an allocation that transforms name; a transposition comes last."""
        transforms = list(transforms)
        turned = bool(transforms) and isinstance(transforms[-1], state_types.TransposeTransform)
        if turned:
            assert transforms.pop().permutation == (1, 0)
        # Tiles and swizzles are how the buffer lies; it is simulated as the plain array.
        plain = [t for t in transforms if not isinstance(t, gpu_callbacks.NOOP_TRANSFORMS)]
        shape = state_types.transform_type(transforms, aval).shape
        token, value = gpu_callbacks.call_get(
            token=token,
            result_shape_and_dtype=jax.ShapeDtypeStruct(shape, aval.dtype),
            **self.reader(),
            allocation_key_as_array=key,
            transforms=tuple(plain),
            source_info=eqn.source_info,
        )
        return token, value.T if turned else value


def _in_registers(eqn):
    places = [x.aval.memory_space for x in eqn.params["jaxpr"].invars]
    return places and all(p == gpu_core.MemorySpace.REGS for p in places)


def _run_scoped(self, eqn, token, values):
    inner = eqn.params["jaxpr"]
    cells = [Cell(jnp.zeros(x.aval.shape, x.aval.dtype)) for x in inner.invars]
    inner = inner.replace(constvars=[], invars=[*inner.constvars, *inner.invars])
    return self.interpret(inner, token, *values, *cells)


def _run_state(self, eqn, token, values):
    """What is a value outside and a reference inside becomes a cell: accumulators and constants."""
    inner = eqn.params["jaxpr"]
    arguments = [
        v if isinstance(outer.aval, state_types.AbstractRef) else Cell(v)
        for outer, v in zip(eqn.invars, values)
    ]
    token, _ = self.interpret(inner, token, *arguments)
    return token, [a.value if isinstance(a, Cell) else a for a in arguments]


def _load(self, eqn, token, values):
    transforms = jax.tree.unflatten(eqn.params["tree"], values[1:])
    token, value = self.read(token, eqn.invars[0].aval, values[0], transforms, eqn)
    return token, [value]


def _layout_cast(self, eqn, token, values):
    return token, values


def _wgmma(self, eqn, token, values):
    acc, a, b, *leaves = values
    trees = [
        eqn.params[f"{name}_transforms_tree"] or jax.tree.structure([])
        for name in ("acc", "a", "b")
    ]
    _, of_a, of_b = jax.tree.unflatten(jax.tree_util.treedef_tuple(trees), leaves)
    if isinstance(eqn.invars[1].aval, state_types.AbstractRef):
        token, a = self.read(token, eqn.invars[1].aval, a, of_a, eqn)
    token, b = self.read(token, eqn.invars[2].aval, b, of_b, eqn)
    acc.value += jnp.dot(a.astype(jnp.float32), b.astype(jnp.float32))
    return token, []


def _deref(self, eqn, token, values):
    return token, [values[0].value]


def _store(self, eqn, token, values):
    cell, value = values
    cell.value = value
    return token, [value]


RULES = {
    discharge.run_state_p: _run_state,
    gpu_primitives.load_p: _load,
    gpu_core.layout_cast_p: _layout_cast,
    gpu_primitives.wgmma_ref_p: _wgmma,
    gpu_primitives.wgmma_accumulator_deref_p: _deref,
    gpu_primitives.wgmma_accumulator_store_p: _store,
}


class Threads:
    """Compiles what the threads of a kernel run once, not for each thread of each program."""

    def __init__(self):
        self.compiled, self.lock = {}, threading.Lock()

    def run(self, jaxpr, consts, *args):
        with self.lock:
            if id(jaxpr) not in self.compiled:
                fn = jax.jit(functools.partial(jax_core.eval_jaxpr, jaxpr))
                # The jaxpr is kept: its id stays its own.
                self.compiled[id(jaxpr)] = jaxpr, fn.lower(consts, *args).compile(QUICK_COMPILE)
        self.compiled[id(jaxpr)][1](consts, *args)


@contextlib.contextmanager
def mosaic_interpreter():
    """Yields what to pass as `interpret`; kernels must be traced and run inside."""
    with (
        mock.patch.object(jaxpr_interpret, "JaxprInterpreter", Interpreter),
        mock.patch.object(thread_map, "_run_jaxpr", Threads().run),
    ):
        yield InterpretGPUParams()
