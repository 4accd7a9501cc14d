"""From a system and a stage to a placed state and compiled steps."""

import dataclasses
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
from jax.sharding import Mesh
from jax.typing import DTypeLike

from unijax.core import tree
from unijax.core.errors import UserError
from unijax.core.system import Params, System, init_shapes
from unijax.parallel import sharding
from unijax.train import kinds, lora, mup
from unijax.train import state as state_lib
from unijax.train.optimizer import GroupedOptimizer
from unijax.train.stage import Rule, StageConfig, match_rules, with_rules
from unijax.train.state import TrainState
from unijax.train.step import make_eval_step, make_train_step


@dataclasses.dataclass(frozen=True)
class Trainer:
    """What `fit` needs, built once.

    Attributes:
      system: what is trained.
      rules: of every parameter path.
      optimizer_versions: of the state of each optimizer (`train.kinds`).
      abstract: nested tree of the shapes, dtypes and shardings of all parameters.
      abstract_state: the same of a `TrainState`.
      batch_sharding: of every leaf of a batch.
      init: seed -> fresh parameters, placed.
      adapters: seed -> those of `init` that are adapters.
      begin: parameters -> fresh `TrainState`. Consumes its argument.
      train_step, eval_step: jitted.
      put: host batch -> device batch.
    """

    system: System
    rules: dict[str, Rule]
    optimizer_versions: dict[str, str]
    abstract: Params
    abstract_state: TrainState
    batch_sharding: jax.sharding.NamedSharding
    init: Callable[[int], Params]
    adapters: Callable[[int], Params]
    begin: Callable[[Params], TrainState]
    train_step: Callable
    eval_step: Callable
    put: Callable[[Any], Any]


def build(
    system: System,
    stage: StageConfig,
    mesh: Mesh,
    table: str,
    compute_dtype: DTypeLike,
    seed: int,
    parts: int = 1,
    mup_base: System | None = None,
) -> Trainer:
    """Matches rules, places parameters and compiles nothing yet.

    Args:
      parts: of the rows of a step, see `make_train_step`.
      mup_base: the system at the widths where initialisation and learning rates are as they are
        given (`mup`); None: they are as given at any width.

    Raises:
      UserError: for several parts of a system that needs the whole batch at once, for a base of
        other parameters, with adapters or for another optimizer than Adam, or for adapters of
        nothing.
    """
    if parts > 1 and not system.rows_alone:
        raise UserError(
            "accumulate", f"{parts} for the system {type(system).__name__}",
            "1: its loss is of pairs of all rows", "Set it to 1, or use more devices.",
        )  # fmt: skip
    system = lora.adapted(system, stage.lora)
    if mup_base is not None:
        mup.check_stage(stage)
    boxed = init_shapes(system)
    shardings = sharding.param_shardings(boxed, mesh, table, system.own_axes)
    abstract = jax.tree.map(
        lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), nn.unbox(boxed), shardings
    )
    stage = with_rules(stage, getattr(system, "keeps", ()))
    rules = match_rules(stage, list(tree.flatten(abstract)))
    scales = {} if mup_base is None else _mup_scales(system, boxed, mup_base)
    for path, scale in scales.items():
        rate = rules[path].lr_multiple * scale.rate
        rules[path] = dataclasses.replace(rules[path], lr_multiple=rate)
    trained = {p: r for p, r in rules.items() if not r.frozen}
    boxes = tree.flatten(boxed)
    leaves = {p: kinds.leaf(p, boxes[p], rule) for p, rule in trained.items()}
    optimizer = GroupedOptimizer(stage, trained, leaves)

    def begin(params: Params) -> TrainState:
        return state_lib.begin(params, rules, optimizer, compute_dtype, stage.ema_decay > 0)

    whole = sharding.replicated(mesh)
    by_path = tree.flatten(shardings)

    def place(path: tuple, leaf: Any) -> jax.sharding.Sharding:
        """Moments and averages lie like the parameter whose path they end with."""
        names = [str(getattr(k, "key", getattr(k, "name", k))) for k in path]
        for i in range(len(names)):
            found = by_path.get("/".join(names[i:]))
            if (
                found is not None
                and leaf.shape == tree.flatten(abstract)["/".join(names[i:])].shape
            ):
                return found
        return whole

    shapes = jax.eval_shape(begin, abstract)
    state_shardings = jax.tree_util.tree_map_with_path(place, shapes)
    rows = sharding.batch_sharding(mesh)

    def init(run_seed: int) -> Params:
        def fresh(key):
            params = nn.unbox(system.init(key))
            if not scales:
                return params
            flat = tree.flatten(params)
            return tree.unflatten({p: x * scales[p].init for p, x in flat.items()})

        return jax.jit(fresh, out_shardings=shardings)(jax.random.key(run_seed))

    def adapters(run_seed: int) -> Params:
        if not stage.lora:
            return {}
        placed = {p: s for p, s in tree.flatten(shardings).items() if lora.is_adapter(p)}
        make = jax.jit(lambda k: nn.unbox(system.adapters(k)), out_shardings=tree.unflatten(placed))
        return make(jax.random.key(run_seed))

    def put(batch: Any) -> Any:
        return jax.tree.map(lambda x: jax.make_array_from_process_local_data(rows, x), batch)

    def on_mesh(fn: Callable) -> Callable:
        """`fn`, whose parts may ask how things are split (`core.mesh`)."""

        def traced(*args):
            with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
                return fn(*args)

        return traced

    step = on_mesh(
        make_train_step(
            system, optimizer, rules, stage.ema_decay, seed, parts, state_shardings.params
        )
    )
    return Trainer(
        system=system,
        rules=rules,
        optimizer_versions=optimizer.versions,
        abstract=abstract,
        abstract_state=jax.tree.map(
            lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), shapes, state_shardings
        ),
        batch_sharding=rows,
        init=init,
        adapters=adapters,
        begin=jax.jit(begin, out_shardings=state_shardings, donate_argnums=0),
        train_step=jax.jit(step, donate_argnums=0, out_shardings=(state_shardings, None)),
        eval_step=jax.jit(on_mesh(make_eval_step(system))),
        put=put,
    )


def _mup_scales(system: System, boxed: Params, base: System) -> dict[str, mup.Scale]:
    return mup.scales(boxed, init_shapes(base), system.head_dims, base.head_dims)
