"""A stack of equal blocks: the one place that knows scan and remat."""

import operator
from typing import Any

import flax.linen as nn
import jax

from unijax.core import axes

REMAT_POLICIES = {
    "none": None,
    "full": jax.checkpoint_policies.nothing_saveable,
    "dots": jax.checkpoint_policies.save_from_both_policies(
        jax.checkpoint_policies.checkpoint_dots_with_no_batch_dims,
        jax.checkpoint_policies.save_only_these_names("attention"),
    ),
}


def stack(block: type[nn.Module], length: int, remat: str, name: str, **fields: Any) -> nn.Module:
    """`length` blocks run in sequence, their parameters on one leading axis.

    A block maps `(x, per_layer, *shared) -> (x, per_layer_out)`: `x` is carried from layer to
    layer, `per_layer` has a leading axis of `length` on every leaf (or is None), `shared`
    is the same for all.

    Args:
      block: linen module class.
      length: number of layers.
      remat: "none" keeps every activation, "dots" recomputes all but the products with weights
        and the output of attention, "full" recomputes everything.
      name: of the submodule, hence of the parameter path.
      **fields: of the block.
    """
    # prevent_cse is for a remat outside of a loop; inside scan it only costs.
    scanned = nn.scan(
        rematerialised(block, remat, prevent_cse=False),
        variable_axes={"params": 0},
        split_rngs={"params": True, "dropout": True},
        in_axes=(0, nn.broadcast),
        out_axes=0,
        length=length,
        metadata_params={nn.PARTITION_NAME: axes.LAYERS},
    )
    return scanned(name=name, **fields)


def rematerialised(block: type[nn.Module], remat: str, prevent_cse: bool = True) -> type[nn.Module]:
    """The module class, its activations recomputed in the backward pass as `stack` says.

    Args:
      prevent_cse: keeps the compiler from undoing it; not needed inside a loop.
    """
    if remat not in REMAT_POLICIES:
        raise ValueError(f"{remat=} is not one of {sorted(REMAT_POLICIES)}")
    if remat == "none":
        return block
    return nn.remat(block, policy=REMAT_POLICIES[remat], prevent_cse=prevent_cse)


def unstack(params: dict[str, Any], name: str) -> dict[str, Any]:
    """The parameters of the stack `name` laid out as `name_0`, `name_1`, ...: each layer alone."""
    stacked = params[name]
    length = len(jax.tree.leaves(stacked)[0])
    layers = {f"{name}_{i}": jax.tree.map(operator.itemgetter(i), stacked) for i in range(length)}
    return {group: leaves for group, leaves in params.items() if group != name} | layers
