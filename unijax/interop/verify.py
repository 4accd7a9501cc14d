"""Live logits of a run against its export: the last word on whether weights arrived.

Both models run in float32 at the highest matmul precision, and differences are relative to the
reference's largest magnitude: a wrong rotary permutation hides below anything looser. An export in
a narrower dtype is compared with the run rounded to it, so that rounding hides nothing either.
"""

import dataclasses
import functools
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Float, Int

from unijax.core import tree
from unijax.core.batch import ImageSlots, Kind, PackedBatch, Target
from unijax.core.system import Params
from unijax.core.vocab import SpecialIds
from unijax.interop import configs, reference
from unijax.interop.opening import abstract_params, check_same, open_model
from unijax.interop.reference import Prompts
from unijax.systems.janus import Janus, JanusConfig
from unijax.train import checkpoint
from unijax.train.streaming import StoredParams

_ROWS = 2
_WORDS = 12  # random text ids around an image


@dataclasses.dataclass(frozen=True)
class Difference:
    """Of one kind of output.

    Attributes:
      kind: "text", "understanding" or "generation" logits, "decoded" pictures or "latents".
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
    """Compares a run with its export, which transformers loads, on random prompts of each kind.

    Args:
      run_dir: of a Janus, or one step in it.
      export_dir: model directory in either format.
      tolerance: on the largest difference, relative to the reference's largest magnitude.
      seed: of the prompts.

    Raises:
      UserError: if either side does not load.
    """
    export_dir = pathlib.Path(export_dir)
    run = checkpoint.read_run(run_dir)
    config = configs.from_run(run, str(run_dir))
    model = open_model(export_dir)
    for part in ("text", "vision", "vq"):
        check_same(str(export_dir), getattr(model.config, part), getattr(config, part), ())
    special = reference.special_ids(export_dir)
    prompts = make_prompts(config, special, np.random.default_rng(seed))
    # One model at a time: in float32 they are large.
    theirs = reference.outputs(model, special, prompts)
    dtypes = {
        p: model.weights.tensors[e.names(1)[0]].dtype for e in model.table.entries for p in e.ours
    }
    ours = outputs(run_dir, config, dtypes, prompts, theirs["decoded"])
    narrower = {
        dtypes[p].name
        for p, a in StoredParams(run_dir).arrays.items()
        if dtypes[p].itemsize < np.dtype(a.dtype).itemsize
    }
    return Verified(
        tuple(_difference(kind, ours[kind], theirs[kind]) for kind in theirs),
        tolerance,
        ", ".join(sorted(narrower)) or None,
    )


def make_prompts(config: JanusConfig, special: SpecialIds, rng: np.random.Generator) -> Prompts:
    """Random prompts of each kind; no special id but where it belongs."""
    c = config
    used = set(dataclasses.astuple(special))
    ordinary = np.array([i for i in range(c.text.vocab_size) if i not in used])

    def words(n: int) -> np.ndarray:
        return rng.choice(ordinary, (_ROWS, n))

    def column(*ids: int) -> np.ndarray:
        return np.tile(np.array(ids), (_ROWS, 1))

    size = c.vision.image_size
    image = column(special.boi, *[special.image_placeholder] * c.vision.num_tokens, special.eoi)
    return Prompts(
        text=np.concatenate([column(special.bos), words(3 * _WORDS)], axis=1),
        und=np.concatenate([column(special.bos), words(_WORDS), image, words(_WORDS)], axis=1),
        pixels=rng.integers(0, 256, (_ROWS, size, size, 3), np.uint8),
        gen=np.concatenate([column(special.bos), words(_WORDS), column(special.boi)], axis=1),
        codes=rng.integers(0, c.vq.num_embeddings, (_ROWS, c.vq.num_tokens)),
    )


def outputs(
    run_dir: str | pathlib.Path,
    config: JanusConfig,
    dtypes: dict[str, np.dtype],
    prompts: Prompts,
    decoded: np.ndarray,
) -> dict[str, np.ndarray]:
    """Ours, as `reference.outputs` has them.

    Args:
      dtypes: that parameters are rounded to, by path, before they become float32.
      decoded: [B, h, w, 3], what the image tokenizer encodes.
    """
    abstract = abstract_params(config)
    like = {p: jax.ShapeDtypeStruct(a.shape, dtypes[p]) for p, a in abstract.items()}
    params = checkpoint.read_params(run_dir, tree.unflatten(like))
    params = jax.tree.map(lambda x: x.astype(jnp.float32), params)
    with jax.default_matmul_precision("highest"):
        out = _forward(
            config,
            params,
            _rows([(Kind.TEXT, prompts.text)]),
            _und_rows(prompts, config),
            _gen_rows(prompts),
            prompts.codes.astype(np.int32),
            decoded,
        )
    return {name: np.asarray(x) for name, x in out.items()}


@functools.partial(jax.jit, static_argnums=0)
def _forward(
    config: JanusConfig,
    params: Params,
    text: PackedBatch,
    und: PackedBatch,
    gen: PackedBatch,
    codes: Int[Array, "B N"],
    pixels: Float[Array, "B height width 3"],
) -> dict[str, Array]:
    system = Janus(config)
    images, _ = system.hidden(params, gen)
    vq = {"params": params["vqmodel"]}
    return {
        "text": system.text_logits(params, system.hidden(params, text)[0]),
        "understanding": system.text_logits(params, system.hidden(params, und)[0]),
        # The N positions from begin-of-image on.
        "generation": system.code_logits(params, images[:, -codes.shape[1] :]),
        "decoded": system.decode_codes(params, codes),
        "latents": system.vqmodel.apply(vq, pixels, method="encode_latents"),
    }


def _rows(parts: list[tuple[Kind, np.ndarray]], **streams: ImageSlots) -> PackedBatch:
    """One document a row, of ids or addresses [B, n] of each kind in turn. Nothing is learned."""
    tokens = np.concatenate([x for _, x in parts], axis=1).astype(np.int32)
    kind = np.concatenate([np.full(x.shape, k, np.int32) for k, x in parts], axis=1)
    nothing = np.zeros_like(tokens)
    return PackedBatch(
        tokens=tokens,
        kind=kind,
        segment=np.ones_like(tokens),
        position=np.broadcast_to(np.arange(tokens.shape[1], dtype=np.int32), tokens.shape),
        image=(kind != Kind.TEXT).astype(np.int32),
        target_kind=np.full_like(tokens, Target.NONE),
        target=nothing,
        weight=nothing.astype(np.float32),
        uid=nothing.astype(np.uint32),
        images=streams,
    )


def _slots(**content: np.ndarray) -> ImageSlots:
    """One image a row."""
    (value,) = content.values()
    one = np.ones((value.shape[0], 1), np.float32)
    return ImageSlots(weight=one, seed=one.astype(np.uint32), **content)


def _und_rows(prompts: Prompts, config: JanusConfig) -> PackedBatch:
    first = 2 + _WORDS  # the image's first position: after bos, words and begin-of-image
    last = first + config.vision.num_tokens
    addresses = np.broadcast_to(np.arange(last - first), (prompts.und.shape[0], last - first))
    parts = [
        (Kind.TEXT, prompts.und[:, :first]),
        (Kind.UND, addresses),
        (Kind.TEXT, prompts.und[:, last:]),
    ]
    return _rows(parts, und=_slots(pixels=prompts.pixels[:, None]))


def _gen_rows(prompts: Prompts) -> PackedBatch:
    b, n = prompts.codes.shape
    addresses = np.broadcast_to(np.arange(n - 1), (b, n - 1))  # the last code is never an input
    parts = [(Kind.TEXT, prompts.gen), (Kind.GEN, addresses)]
    return _rows(parts, gen=_slots(codes=prompts.codes[:, None].astype(np.int32)))


def _difference(kind: str, ours: np.ndarray, theirs: np.ndarray) -> Difference:
    assert ours.shape == theirs.shape, (kind, ours.shape, theirs.shape)
    largest = float(np.abs(ours - theirs).max() / np.abs(theirs).max())
    if kind not in ("text", "understanding", "generation"):
        return Difference(kind, largest, None)
    p, q = (_log_softmax(x.astype(np.float64)) for x in (theirs, ours))
    return Difference(kind, largest, float(np.mean(np.sum(np.exp(p) * (p - q), axis=-1))))


def _log_softmax(x: np.ndarray) -> np.ndarray:
    x = x - x.max(axis=-1, keepdims=True)
    return x - np.log(np.exp(x).sum(axis=-1, keepdims=True))
