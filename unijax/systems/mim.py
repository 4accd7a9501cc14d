"""Masked image modelling: a tower learns what a frozen one says of the patches that it cannot see.

EVA's pretraining (arXiv 2211.07636, section 2.1; EVA-02: arXiv 2303.11331, section 2.2). Some
patches of a picture, in blocks, are replaced by a learned token. From what the student makes of
them a linear head predicts the teacher's features of the same patches of the whole picture: those
of a CLIP or EVA-CLIP tower after its last norm, projected into the space that it shares with texts.
The loss is their negative cosine, a mean over the masked patches; there is no other normalisation.
"""

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import DTypeLike
from jaxtyping import Bool, Float, Int

from unijax.core import axes, cost
from unijax.core.batch import ImageBatch
from unijax.core.cost import Cost
from unijax.core.errors import UserError
from unijax.core.keys import named
from unijax.core.masking import Masking, masked_count
from unijax.core.mesh import ROWS, WHOLE, lay
from unijax.core.system import Encoded, Loss, Metrics, Params, Recipe, Sums
from unijax.models.eva import EvaConfig
from unijax.models.towers import Tower, TowerConfig
from unijax.nn.layers import Dense
from unijax.ops.image import to_signed
from unijax.ops.quantize import unit_norm


@dataclasses.dataclass(frozen=True)
class MimConfig:
    """The two towers.

    Attributes:
      vision: the student; it has a mask token and leaves no patches out.
      teacher: sees the same pictures, whole. Its patches lie as the student's.
      target_dim: width of the teacher's projection; 0: there is none.
      target_bias: whether that has a bias: EVA-CLIP's has, CLIP's has not.
      masked: patches of a picture; 0: EVA's share, 105 of 256.

    Raises:
      UserError: if the towers do not belong together, or more is masked than there is.
    """

    vision: EvaConfig
    teacher: TowerConfig
    target_dim: int = 0
    target_bias: bool = False
    masked: int = 0

    def __post_init__(self):
        student, teacher = self.vision, self.teacher
        if not student.mask_token or student.patch_dropout:
            raise UserError(
                "model.vision",
                f"mask_token={student.mask_token}, patch_dropout={student.patch_dropout}",
                "a student with a mask token that leaves no patches out",
                "Set model.vision.mask_token=True and model.vision.patch_dropout=0.",
            )
        grids = [(c.image_size, c.image_size // c.patch_size) for c in (student, teacher)]
        if grids[0] != grids[1]:
            of = "{1} x {1} patches of a picture of {0} pixels".format
            raise UserError(
                "model.teacher",
                of(*grids[1]),
                f"{of(*grids[0])}, as the student has",
                "Change image_size or patch_size of one of them.",
            )
        _ = self.masking  # which refuses what cannot be

    @property
    def masking(self) -> Masking:
        grid = self.vision.grid
        return Masking(grid, self.masked or masked_count(grid, grid))

    @property
    def target_width(self) -> int:
        """Of what is predicted."""
        return self.target_dim or self.teacher.hidden_size


@dataclasses.dataclass(frozen=True)
class Mim:
    """The recipe. Eats `ImageBatch` with masks.

    Parameter groups: `vision_model` (the student: what is kept) and its `head`; `teacher`, which
    every stage must freeze, of `vision_model` and, where there is one, `vision_projection`.

    Attributes:
      config: sizes.
      dtype: of compute.
      param_dtype: of stored, trained parameters.
      remat: of the layers of both towers: "none", "dots" or "full".
    """

    config: MimConfig
    dtype: DTypeLike = jnp.float32
    param_dtype: DTypeLike = jnp.float32
    remat: str = "none"

    encoders = frozenset({"teacher"})
    rows_alone = True
    unused = ()
    lookups: ClassVar[dict[str, str]] = {}
    own_axes: ClassVar[dict[str, str]] = {}
    losses: ClassVar[dict[str, Loss]] = {"mim": Loss("- cosine", "", "masked patches")}

    @property
    def masking(self) -> Masking:
        """What it asks of the data."""
        return self.config.masking

    @property
    def encoded(self) -> dict[str, Encoded]:
        """What a cache may hold where pictures are always seen alike."""
        shape = (self.config.vision.num_tokens, self.config.target_width)
        return {"teacher": Encoded("teacher", "features", shape, "float32", "targets")}

    @property
    def head_dims(self) -> dict[str, int]:
        """Width of a head of attention, by group (`train.mup`)."""
        towers = {"vision_model": self.config.vision, "teacher": self.config.teacher}
        return {name: c.hidden_size // c.num_attention_heads for name, c in towers.items()}

    @property
    def _kinds(self) -> dict:
        return {"dtype": self.dtype, "param_dtype": self.param_dtype}

    @property
    def vision_model(self) -> Tower:
        return Tower(self.config.vision, self.remat, **self._kinds)

    @property
    def teacher(self) -> Tower:
        return Tower(self.config.teacher, self.remat, **self._kinds)

    @property
    def head(self) -> Dense:
        names = (axes.VISION_EMBED, axes.NORM)
        return Dense(self.config.target_width, names, **self._kinds)

    @property
    def teacher_projection(self) -> Dense:
        names, c = (axes.VISION_EMBED, axes.NORM), self.config
        return Dense(c.target_width, names, use_bias=c.target_bias, **self._kinds)

    def init(self, key: Array) -> Params:
        """Fresh parameters, boxed with logical names."""
        c = self.config
        width = lambda tower: jnp.zeros((1, tower.hidden_size), self.dtype)  # noqa: E731

        def made(init, name, *inputs):
            return init(named(key, name), *inputs)["params"]

        teacher = {"vision_model": made(self.teacher.init, "teacher")}
        if c.target_dim:
            projection = made(self.teacher_projection.init, "projection", width(c.teacher))
            teacher["vision_projection"] = projection
        return {
            "vision_model": made(self.vision_model.init, "vision_model"),
            "head": made(self.head.init, "head", width(c.vision)),
            "teacher": teacher,
        }

    def targets(
        self, params: Params, pixels: Float[Array, "B height width 3"]
    ) -> Float[Array, "B N D"]:
        """What the teacher says of every patch, in raster order, from pixels in -1..1."""
        of = params["teacher"]
        x = self.teacher.patches(of["vision_model"], pixels)
        if self.config.target_dim:
            x = self.teacher_projection.apply({"params": of["vision_projection"]}, x)
        return x

    def predict(
        self, params: Params, batch: ImageBatch, training: bool
    ) -> tuple[Float[Array, "B M D"], Int[Array, "B M"]]:
        """What the student says of the M masked patches, and which they are, ascending."""
        pixels = to_signed(batch.pixels, self.dtype)
        seed = batch.seed if training else None
        x = self.vision_model(params["vision_model"], pixels, seed, batch.masked)
        at = _places(batch.masked, self.masking.count)
        x = _taken(x, at + self.vision_model.class_tokens)
        return self.head.apply({"params": params["head"]}, x), at

    # What the loop knows

    def weights(self, batch: ImageBatch) -> Sums:
        """The loss is a mean over the masked patches of all pictures."""
        return {"mim": jnp.sum(batch.weight) * self.masking.count}

    def counts(self, batch: ImageBatch) -> Metrics:
        """Images that are not filling."""
        return {"images": (jnp.sum(batch.weight), jnp.ones(()))}

    def loss(
        self,
        params: Params,
        batch: ImageBatch,
        key: Array | None,
        step: Array,
        frozen: frozenset[str],
    ) -> tuple[Sums, Metrics]:
        """Summed negative cosine over the masked patches of the pictures that count.

        Raises:
          UserError: if the batch has no masks.
        """
        del step, frozen
        if batch.masked is None:
            raise UserError(
                "data", "pictures without masks", "a mask for each", "Load them for this system."
            )
        found, at = self.predict(params, batch, training=key is not None)
        wanted = batch.features
        if wanted is None:
            wanted = self.targets(params, to_signed(batch.pixels, self.dtype))
        wanted = _taken(jax.lax.stop_gradient(wanted), at)
        cosine = jnp.sum(unit_norm(found) * unit_norm(wanted), axis=-1)
        total = -jnp.sum(batch.weight * jnp.sum(cosine, axis=1))
        return {"mim": total}, {"mim/loss": (total, self.weights(batch)["mim"])}

    def amounts(self, batch: ImageBatch, as_causal: bool = False) -> dict[str, Array]:
        del as_causal  # no packed rows
        images = jnp.sum(batch.weight)
        found = {cost.IMAGES: images, cost.targets("feature"): images * self.masking.count}
        return found if batch.features is not None else found | {cost.encoded_of("teacher"): images}

    @property
    def costs(self) -> tuple[Cost, ...]:
        c, taught = self.config, cost.encoded_of("teacher")
        student, teacher = c.vision, c.teacher
        projection = 2.0 * teacher.hidden_size * c.target_dim * c.vision.num_tokens
        found = (
            Cost("student", "tower", "vision_model", cost.IMAGES, *self.vision_model.flops()),
            Cost("head", "head", "head", cost.targets("feature"),
                 2.0 * student.hidden_size * c.target_width),
            Cost("teacher", "tower", "teacher/vision_model", taught,
                 float(teacher.flops_per_image()), float(teacher.last_flops_per_image()),
                 backward=False),
        )  # fmt: skip
        if not c.target_dim:
            return found
        return (
            *found,
            Cost("teacher", "adaptor", "teacher/vision_projection", taught, projection,
                 backward=False),
        )  # fmt: skip


def _places(masked: Bool[Array, "B N"], count: int) -> Int[Array, "B M"]:
    """Of the masked patches, ascending."""
    return jnp.argsort(~masked, axis=1, stable=True)[:, :count]


def _taken(x: Float[Array, "B N D"], at: Int[Array, "B M"]) -> Float[Array, "B M D"]:
    """Those of the tokens. Of a picture all lie together, so that none is looked for elsewhere."""
    return jnp.take_along_axis(lay(x, ROWS, WHOLE, WHOLE), at[..., None], axis=1)


RECIPE = Recipe("mim", Mim, MimConfig, "pictures")
