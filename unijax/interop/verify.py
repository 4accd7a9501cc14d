"""Live logits of a run against its export: the last word on whether weights arrived.

Both models run in float32 at the highest matmul precision, and differences are relative to the
reference's largest magnitude: a wrong rotary permutation hides below anything looser. An export in
a narrower dtype is compared with the run rounded to it, so that rounding hides nothing either.
"""

import dataclasses
import pathlib

import jax
import jax.numpy as jnp
import numpy as np

from unijax.core import tree
from unijax.core.errors import UserError
from unijax.core.json_files import shown
from unijax.core.system import Params
from unijax.interop import registry
from unijax.interop.interface import Outputs
from unijax.interop.opening import (
    ForeignModel,
    abstract_params,
    check_same_networks,
    config_of,
    open_model,
)
from unijax.train import checkpoint
from unijax.train.streaming import StoredParams


@dataclasses.dataclass(frozen=True)
class Difference:
    """Of one kind of output.

    Attributes:
      kind: what it is: logits of a sort of prompt, a decoded picture, ...
      largest: max |ours - theirs| / max |theirs|.
      kl: mean over positions of KL(theirs || ours) in nats; None where there are no logits.
    """

    kind: str
    largest: float
    kl: float | None


@dataclasses.dataclass(frozen=True)
class Verified:
    """What a comparison found.

    Attributes:
      differences: of each kind of output.
      tolerance: on each.
      rounded_to: dtype that the run was rounded to, as the export is; None if it was not.
    """

    differences: tuple[Difference, ...]
    tolerance: float
    rounded_to: str | None = None

    @property
    def ok(self) -> bool:
        return all(d.largest <= self.tolerance for d in self.differences)

    def __str__(self) -> str:
        lines = [f"{'':14} {'max difference':>15} {'KL (nats)':>12}"]
        for d in self.differences:
            kl = "" if d.kl is None else f"{d.kl:12.2e}"
            mark = "" if d.largest <= self.tolerance else f"  beyond {self.tolerance:g}"
            lines.append(f"{d.kind:14} {d.largest:15.2e} {kl:>12}{mark}".rstrip())
        if self.rounded_to is not None:
            lines.append(f"the run was rounded to {self.rounded_to}, as the export is")
        return "\n".join(lines)


def verify(
    run_dir: str | pathlib.Path,
    export_dir: str | pathlib.Path,
    tolerance: float = 1e-4,
    seed: int = 0,
) -> Verified:
    """Compares a run with its export, which the code that it is for loads, on random inputs.

    Args:
      run_dir: a run directory, or one step in it.
      export_dir: model directory in any format of its system.
      tolerance: on the largest difference, relative to the reference's largest magnitude.
      seed: of the inputs.

    Raises:
      UserError: if either side does not load, or they are of different systems or sizes.
    """
    run = checkpoint.read_run(run_dir)
    system, config = config_of(run, str(run_dir))
    of = registry.interop(system)
    model = open_model(export_dir, (system, config))
    check_same_networks(str(model.directory), model.config, config, of.unsaid)
    prompts = of.compare.prompts(config, model.directory, np.random.default_rng(seed))
    # One model at a time: in float32 they are large.
    theirs = _theirs(model, prompts)
    stored = {p: np.dtype(a.dtype) for p, a in StoredParams(run_dir).arrays.items()}
    dtypes = {
        p: model.weights.tensors[e.names(1)[0]].dtype for e in model.table.entries for p in e.ours
    }
    params = _rounded(run_dir, system, config, stored | dtypes)
    with jax.default_matmul_precision("highest"):
        ours = of.compare.ours(config, params, prompts, theirs)
    narrower = {d.name for p, d in dtypes.items() if d.itemsize < stored[p].itemsize}
    return Verified(
        tuple(
            _difference(kind, ours[kind], theirs[kind], kind in of.compare.logits)
            for kind in theirs
        ),
        tolerance,
        ", ".join(sorted(narrower)) or None,
    )


def _theirs(model: ForeignModel, prompts: object) -> Outputs:
    """Outputs of an export, as the code that it is for runs it."""
    try:
        return model.interop.compare.theirs(model, prompts)
    except UserError:
        raise
    except ImportError as e:
        # What the extra does not bring; timm needs torchvision, and brings it.
        alone = {"diffusers": "diffusers", "timm": "timm", "torchvision": "timm"}
        package = alone.get(e.name, "'unijax[interop]'")
        raise UserError(
            "verify", f"{e}", f"PyTorch and {model.format.loads}", f"pip install {package}"
        ) from e
    except Exception as e:  # libraries raise types of their own for what they cannot load or run
        raise UserError(
            str(model.directory), shown(str(e), 300) or type(e).__name__,
            f"a directory that {model.format.loads} loads and runs", "Export it again.",
        ) from e  # fmt: skip


def _rounded(
    run_dir: str | pathlib.Path, system: str, config: object, dtypes: dict[str, np.dtype]
) -> Params:
    """Parameters in float32, rounded to the dtypes of an export before."""
    abstract = abstract_params(system, config)
    like = {p: jax.ShapeDtypeStruct(a.shape, dtypes[p]) for p, a in abstract.items()}
    params = checkpoint.read_params(run_dir, tree.unflatten(like))
    return jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), params)


def _difference(kind: str, ours: np.ndarray, theirs: np.ndarray, logits: bool) -> Difference:
    assert ours.shape == theirs.shape, (kind, ours.shape, theirs.shape)
    largest = float(np.abs(ours - theirs).max() / np.abs(theirs).max())
    if not logits:
        return Difference(kind, largest, None)
    p, q = (_log_softmax(x.astype(np.float64)) for x in (theirs, ours))
    return Difference(kind, largest, float(np.mean(np.sum(np.exp(p) * (p - q), axis=-1))))


def _log_softmax(x: np.ndarray) -> np.ndarray:
    x = x - x.max(axis=-1, keepdims=True)
    return x - np.log(np.exp(x).sum(axis=-1, keepdims=True))
