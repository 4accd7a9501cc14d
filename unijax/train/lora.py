"""Low-rank adapters (LoRA, arXiv 2106.09685): put into any system, and folded into its kernels.

An adapter stands beside the kernel that it adapts: `lora_a` [in, rank], `lora_b` [rank, out], and
`lora_scale`, which is alpha / rank; with dropout also `lora_dropout`. Of a stack of layers all have
an axis of layers. `nn.layers.Dense` adds what it finds there, so no recipe knows of them, and what
reads parameters with adapters needs no config of them.
"""

import dataclasses
import functools
import math
import re
from collections.abc import Iterator, Mapping, Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from unijax.core import axes, tree
from unijax.core.cost import Cost
from unijax.core.errors import UserError
from unijax.core.keys import named
from unijax.core.system import Params, System, init_shapes
from unijax.nn.layers import Dense
from unijax.train.stage import LoraRule

CLASSES = (axes.VOCAB, axes.CODES)
LEAVES = ("lora_a", "lora_b", "lora_scale", "lora_dropout")


def adapted(system: System, rules: tuple[LoraRule, ...]) -> System:
    """The system with adapters among its parameters; itself where it has them.

    Raises:
      UserError: for a rule that adapts nothing.
    """
    if getattr(system, "lora", ()) == rules:
        return system
    matched(system, rules)
    fields = {f.name: getattr(system, f.name) for f in dataclasses.fields(system) if f.init}
    return _adapted_class(type(system))(**fields, lora=rules)


@functools.cache
def _adapted_class(base: type) -> type:
    # A class of its own for each recipe: protocols are checked by what a class has.
    @dataclasses.dataclass(frozen=True)
    class Adapted(base):
        """A recipe and its adapters."""

        lora: tuple[LoraRule, ...] = ()

        @property
        def plain(self) -> System:
            """The recipe without them."""
            fields = [f.name for f in dataclasses.fields(base) if f.init]
            return base(**{name: getattr(self, name) for name in fields})

        def init(self, key: Array) -> Params:
            """Fresh parameters, boxed with logical names."""
            flat = tree.flatten(super().init(key))
            return tree.unflatten(flat | tree.flatten(self.adapters(key)))

        def adapters(self, key: Array) -> Params:
            """Those of `init` alone."""
            return tree.unflatten(_fresh(key, matched(self.plain, self.lora)))

        @property
        def costs(self) -> tuple[Cost, ...]:
            """Products with adapters are as many more as these have more numbers."""
            plain, rules = self.plain, self.lora
            grown = lambda cost: cost.forward * (1 + _growth(plain, rules, cost.group))  # noqa: E731
            return tuple(dataclasses.replace(c, forward=grown(c)) for c in super().costs)

    Adapted.__name__ = Adapted.__qualname__ = f"Adapted{base.__name__}"
    return Adapted


@functools.lru_cache(maxsize=64)
def _growth(system: System, rules: tuple[LoraRule, ...], group: str) -> float:
    """Numbers in the adapters of a group of the plain system, for each in its kernels."""
    if not group:
        return 0.0
    kernels = adapters = 0
    for path, box in tree.flatten(init_shapes(system)).items():
        if path.rsplit("/", 1)[-1] == "kernel" and tree.is_within(path, group):
            kernels += math.prod(box.value.shape)
    for path, (box, rule) in matched(system, rules).items():
        if tree.is_within(path, group):
            *stack, into, out = box.value.shape
            adapters += math.prod(stack) * rule.rank * (into + out)
    return adapters / kernels if adapters else 0.0


def matched(
    system: System, rules: Sequence[LoraRule]
) -> dict[str, tuple[nn.LogicallyPartitioned, LoraRule]]:
    """The kernel, boxed, and the rule of every linear layer that gets an adapter, by its path.

    Raises:
      UserError: for a rule that adapts nothing.
    """
    found, used = {}, set()
    linear = dict(_linear_layers(system))
    for path, box in linear.items():
        rule = next((r for r in rules if re.match(r.pattern, path)), None)
        if rule is not None:
            found[path] = box, rule
            used.add(rule)
    if idle := [rule.pattern for rule in rules if rule not in used]:
        raise UserError(
            "stage.lora",
            f"patterns that adapt nothing: {idle}",
            f"linear layers that no earlier rule matched, such as {sorted(linear)[:3]}",
            "Correct the pattern or delete the rule.",
        )
    return found


def _linear_layers(system: System) -> Iterator[tuple[str, nn.LogicallyPartitioned]]:
    for path, box in tree.flatten(init_shapes(system)).items():
        layer, _, leaf = path.rpartition("/")
        names = [name for name in box.names if name != axes.LAYERS]
        # Heads are worked in chunks of classes (`ops.cross_entropy`).
        if leaf == "kernel" and len(names) == 2 and names[1] not in CLASSES:
            yield layer, box


def _fresh(
    key: Array, layers: Mapping[str, tuple[nn.LogicallyPartitioned, LoraRule]]
) -> dict[str, nn.LogicallyPartitioned]:
    """Adapters that add nothing yet, as peft begins them: A uniform, B zero."""
    found = {}
    for path, (box, rule) in layers.items():
        *stack, into, out = box.value.shape
        *layer, of_in, of_out = box.names
        dtype = box.value.dtype
        limit = into**-0.5
        a = jax.random.uniform(
            named(key, f"{path}/lora_a"), (*stack, into, rule.rank), dtype, -limit, limit
        )
        leaves = {
            "lora_a": (a, (*layer, of_in, axes.RANK)),
            "lora_b": (jnp.zeros((*stack, rule.rank, out), dtype), (*layer, axes.RANK, of_out)),
            "lora_scale": (jnp.full(stack, rule.alpha / rule.rank, dtype), (*layer,)),
        }
        if rule.dropout:
            leaves["lora_dropout"] = jnp.full(stack, rule.dropout, dtype), (*layer,)
        for name, (value, names) in leaves.items():
            found[f"{path}/{name}"] = nn.LogicallyPartitioned(value, names)
    return found


def is_adapter(path: str) -> bool:
    """Whether it is of a leaf of an adapter."""
    return path.rsplit("/", 1)[-1] in LEAVES


def without(params: Params) -> Params:
    """The parameters, or what a tree of the same shape holds of them, but for adapters."""
    flat = tree.flatten(params)
    return tree.unflatten({path: x for path, x in flat.items() if not is_adapter(path)})


def alone(params: Params) -> Params:
    """The adapters among the parameters."""
    flat = tree.flatten(params)
    return tree.unflatten({path: x for path, x in flat.items() if is_adapter(path)})


def folded(flat: Mapping[str, Array | np.ndarray]) -> dict[str, Array | np.ndarray]:
    """Parameters by path without adapters: each is added to its kernel, in float32."""
    plain = {path: x for path, x in flat.items() if not is_adapter(path)}
    for path in flat:
        layer, _, leaf = path.rpartition("/")
        if leaf == "lora_a":
            a, b, scale = (
                jnp.asarray(flat[f"{layer}/lora_{n}"], jnp.float32) for n in ("a", "b", "scale")
            )
            kernel = flat[f"{layer}/kernel"]
            more = jnp.matmul(a, b, precision="highest") * scale[..., None, None]
            plain[f"{layer}/kernel"] = (kernel.astype(jnp.float32) + more).astype(kernel.dtype)
    return plain


def check_drops(next_call, args, kwargs, context):
    """For `nn.intercept_methods` around a training step: no adapter's dropout is passed over."""
    layer = context.module
    called = isinstance(layer, Dense) and context.method_name == "__call__"
    if called and layer.has_variable("params", "lora_dropout") and not layer.has_rng("dropout"):
        raise UserError(
            "stage.lora",
            f"dropout of {'/'.join(layer.path)}, in a network that its recipe gives no rng",
            "dropout=0.0, or adapters of other networks",
            "Change the rule.",
        )
    return next_call(*args, **kwargs)
