"""Training of image autoencoders: VQ tokenizers to codes, KL autoencoders to latents.

VQ is LlamaGen's recipe (arXiv 2406.06525, section 3.1). Its `vq_train.py` and `vq_loss.py`
minimise, with Adam (0.9, 0.95) at 1e-4, clipping at 1, batch 128,

    L2 + 1.0 LPIPS + (codebook 1.0 + commitment 0.25) + 0.5 (-D(reconstruction)) from step 20,000 on

for the tokenizer, and 0.5 hinge for the patch discriminator D from the same step on. KL is that of
Transfusion (arXiv 2408.11039, appendix A) without its identity loss,

    L1 + 1.0 LPIPS + 1e-6 KL + 0.5 (-D(reconstruction)) from step 50,000 on

whose pictures come from latents drawn by each picture's seed. The semantic tokenizer of Janus's
ablations (arXiv 2410.13848, appendix A) is VQ with 0.25 (1 - cosine) more, of what a transformer
makes of the codes (`models.semantic`) with the features of a frozen SigLIP, a mean over places.

Our choices: the perceptual distance is LPIPS's (arXiv 1801.03924, equation 1) with all its channel
weights equal, on EfficientNet-Lite0 instead of VGG-16, averaged over layers; D has group norm; the
divergence is summed over the latents of a picture, where its distances are means over pixels.
"""

import dataclasses
from typing import ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import DTypeLike
from jaxtyping import Float

from unijax.core import axes, cost
from unijax.core.batch import ImageBatch
from unijax.core.bounds import NOT_NEGATIVE, check_numbers
from unijax.core.cost import Cost
from unijax.core.errors import UserError
from unijax.core.record import added
from unijax.core.system import Loss, Metrics, Params, Recipe, Sums
from unijax.models import efficientnet_lite
from unijax.models.autoencoder import AutoencoderConfig, AutoencoderKL
from unijax.models.efficientnet_lite import EfficientNetLite0
from unijax.models.patchgan import PatchGAN, PatchGANConfig
from unijax.models.semantic import SemanticConfig, SemanticDecoder
from unijax.models.towers import Tower, TowerConfig
from unijax.models.vqgan import VQGAN, VQConfig
from unijax.nn.layers import Dense
from unijax.ops.image import to_signed

PERCEPTUAL_STAGES = 5  # of EfficientNet-Lite0: features at strides 2, 4, 8, 16, 16


@dataclasses.dataclass(frozen=True)
class TokenizerConfig:
    """The networks and the weights of the terms.

    Attributes:
      vq, kl: the autoencoder, one of the two.
      discriminator: None trains without one.
      reconstruction: "l2" or "l1", the mean over pixels and channels in -1..1.
      perceptual_weight: 0 leaves the perceptual network out.
      perceptual_path: its `.pth` file; empty finds the installed package.
      codebook_weight, commitment_weight: of `vq`.
      adversarial_start: the step from which on the discriminator trains and counts.
      kl_weight: of `kl`.
      semantic: what learns the features of `teacher` from the codes of `vq`; both or neither.
      semantic_weight: of `semantic`.

    Raises:
      UserError: both autoencoders or neither, an unknown distance, a weight below 0, or a teacher
        that has not one feature for every code.
    """

    vq: VQConfig | None = None
    discriminator: PatchGANConfig | None = None
    reconstruction: str = "l2"
    reconstruction_weight: float = 1.0
    perceptual_weight: float = 1.0
    perceptual_path: str = ""
    codebook_weight: float = 1.0
    commitment_weight: float = 0.25
    adversarial_weight: float = 0.5
    adversarial_start: int = 20_000
    kl: AutoencoderConfig | None = added(None)
    kl_weight: float = added(1e-6)
    semantic: SemanticConfig | None = added(None)
    teacher: TowerConfig | None = added(None)
    semantic_weight: float = added(0.25)

    def __post_init__(self):
        weights = (f.name for f in dataclasses.fields(self) if f.name.endswith("_weight"))
        check_numbers(self, "model", dict.fromkeys(weights, NOT_NEGATIVE))
        self._check_semantic()
        if (self.vq is None) == (self.kl is None):
            raise UserError(
                "model.vq, model.kl",
                "neither" if self.vq is None else "both",
                "one of them: codes or latents",
                "Leave the other out.",
            )
        if self.reconstruction not in ("l1", "l2"):
            raise UserError(
                "model.reconstruction", repr(self.reconstruction), "'l1' or 'l2'", "Correct it."
            )

    def _check_semantic(self) -> None:
        vq, teacher = self.vq, self.teacher
        if (self.semantic is None) != (teacher is None) or (teacher and vq is None):
            raise UserError(
                "model.semantic, model.teacher", "one of them, or codes to read are missing",
                "both, beside model.vq", "Add what is missing, or leave both out.",
            )  # fmt: skip
        if teacher is None:
            return
        of = "{} of a picture of {} pixels".format
        wanted = of(vq.num_tokens, vq.image_size)
        if (found := of(teacher.num_tokens, teacher.image_size)) != wanted:
            raise UserError(
                "model.teacher", f"features, {found}", f"one for each code, {wanted}",
                "Change the sizes of one of them.",
            )  # fmt: skip

    @property
    def image_size(self) -> int:
        """Pixels of a side."""
        return (self.vq or self.kl).image_size


@dataclasses.dataclass(frozen=True)
class Tokenizer:
    """The recipe. Eats `ImageBatch`.

    Parameter groups: `generator` (the autoencoder: what is kept), `discriminator`, and
    `perceptual`, which comes from a file and which every stage must freeze. The first two want an
    optimizer each; stop-gradients keep their terms apart. A semantic tokenizer has `semantic` (kept
    too), its `semantic_head`, and `teacher`, which every stage must freeze.

    Attributes:
      config: networks and weights of the terms.
      dtype: of compute.
      param_dtype: of stored, trained parameters.
      remat: must be "none".
    """

    config: TokenizerConfig
    dtype: DTypeLike = jnp.float32
    param_dtype: DTypeLike = jnp.float32
    remat: str = "none"

    encoders = frozenset()  # no group is frozen on the input side
    rows_alone = True

    def __post_init__(self):
        if self.remat != "none":
            raise UserError(
                "remat", repr(self.remat), "'none'", "The autoencoder keeps its activations."
            )

    @property
    def generator(self) -> VQGAN | AutoencoderKL:
        kinds = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        if self.config.vq is not None:
            return VQGAN(self.config.vq, **kinds)
        return AutoencoderKL(self.config.kl, **kinds)

    @property
    def discriminator(self) -> PatchGAN:
        kinds = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        return PatchGAN(self.config.discriminator, **kinds)

    @property
    def semantic(self) -> SemanticDecoder:
        kinds = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        return SemanticDecoder(self.config.semantic, self.config.vq.num_tokens, **kinds)

    @property
    def semantic_head(self) -> Dense:
        kinds = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        names = (axes.VISION_EMBED, axes.NORM)
        return Dense(self.config.teacher.hidden_size, names, **kinds)

    @property
    def teacher(self) -> Tower:
        return Tower(self.config.teacher, dtype=self.dtype, param_dtype=self.param_dtype)

    @property
    def perceptual(self) -> EfficientNetLite0:
        return EfficientNetLite0(PERCEPTUAL_STAGES, dtype=self.dtype)

    def init(self, key: Array) -> Params:
        """Fresh parameters, boxed with logical names; the perceptual ones read from their file.

        Raises:
          UserError: if that file is needed and absent.
        """
        cfg = self.config
        keys = jax.random.split(key, 2 if cfg.semantic is None else 5)
        pixels = jnp.zeros((1, cfg.image_size, cfg.image_size, 3), self.dtype)
        seed = () if cfg.vq is not None else (jnp.zeros(1, jnp.uint32),)
        params = {"generator": self.generator.init(keys[0], pixels, *seed)["params"]}
        if cfg.discriminator is not None:
            params["discriminator"] = self.discriminator.init(keys[1], pixels)["params"]
        if cfg.semantic is not None:
            vectors = jnp.zeros((1, cfg.vq.num_tokens, cfg.vq.embed_dim), self.dtype)
            features = jnp.zeros((1, 1, cfg.semantic.hidden_size), self.dtype)
            params["semantic"] = self.semantic.init(keys[2], vectors)["params"]
            params["semantic_head"] = self.semantic_head.init(keys[3], features)["params"]
            params["teacher"] = self.teacher.init(keys[4])["params"]
        if cfg.perceptual_weight:
            values = efficientnet_lite.load_weights(cfg.perceptual_path, PERCEPTUAL_STAGES)
            boxes = jax.eval_shape(self.perceptual.init, keys[1], pixels)["params"]
            params["perceptual"] = jax.tree.map(
                lambda box, value: box.replace_boxed(jnp.asarray(value)),
                boxes,
                values,
                is_leaf=lambda x: isinstance(x, nn.LogicallyPartitioned),
            )
        return params

    def weights(self, batch: ImageBatch) -> Sums:
        """Every term is a mean over the images."""
        return {name: jnp.sum(batch.weight) for name in self._terms}

    @property
    def _terms(self) -> tuple[str, ...]:
        terms = ("reconstruction", "codebook" if self.config.vq is not None else "kl")
        if self.config.semantic is not None:
            terms += ("semantic",)
        if self.config.perceptual_weight:
            terms += ("perceptual",)
        if self.config.discriminator is not None:
            terms += ("adversarial", "discriminator")
        return terms

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
        """Sums over the images of every term, weights of the config included, and metrics.

        One pass of the generator serves its own terms and the discriminator's.
        """
        del key, frozen
        cfg = self.config
        real = to_signed(batch.pixels, self.dtype)
        generate = self._through_codes if cfg.vq is not None else self._through_latents
        fake, terms, plain, metrics = generate(params, real, batch)
        error = fake - real
        distance = jnp.abs(error) if cfg.reconstruction == "l1" else error**2
        of_pixels = cfg.reconstruction_weight * jnp.mean(distance, axis=(1, 2, 3))
        per_image = {"reconstruction": of_pixels, **terms}
        plain["psnr"] = psnr(fake, real)
        if cfg.perceptual_weight:
            plain["perceptual"] = self._perceptual_distance(params["perceptual"], fake, real)
            per_image["perceptual"] = cfg.perceptual_weight * plain["perceptual"]
        if cfg.discriminator is not None:
            adversarial = self._adversarial(params["discriminator"], fake, real, step)
            plain |= adversarial
            for term in ("adversarial", "discriminator"):
                per_image[term] = cfg.adversarial_weight * adversarial[term]
        sums = {name: jnp.sum(batch.weight * value) for name, value in per_image.items()}
        images = jnp.sum(batch.weight)
        metrics |= {name: (jnp.sum(batch.weight * x), images) for name, x in plain.items()}
        return sums, metrics

    def _through_codes(
        self, params: Params, real: Float[Array, "B height width 3"], batch: ImageBatch
    ) -> tuple[Array, dict[str, Array], dict[str, Array], Metrics]:
        """The reconstruction; of every image, terms and what is shown; and of the batch."""
        cfg = self.config
        out = self.generator.apply({"params": params["generator"]}, real)
        commitment = cfg.commitment_weight * out.commitment_loss
        terms = {"codebook": cfg.codebook_weight * out.codebook_loss + commitment}
        metrics = {"codes_used": self._codes_used(out.codes, batch.weight)}
        plain = {"commitment": out.commitment_loss}
        if cfg.semantic is not None:
            plain["cosine"] = self._cosine(params, out.vectors, real)
            terms["semantic"] = cfg.semantic_weight * (1.0 - plain["cosine"])
        return out.pixels, terms, plain, metrics

    def _cosine(
        self, params: Params, vectors: Float[Array, "B N d"], real: Float[Array, "B h w 3"]
    ) -> Float[Array, "B"]:
        """Of what codes mean with what the teacher sees there, a mean over the places."""
        x = self.semantic.apply({"params": params["semantic"]}, vectors.astype(self.dtype))
        x = self.semantic_head.apply({"params": params["semantic_head"]}, x)
        seen = jax.lax.stop_gradient(self.teacher.patches(params["teacher"], real))
        return jnp.mean(jnp.sum(_unit(x) * _unit(seen), axis=-1), axis=1)

    def _through_latents(
        self, params: Params, real: Float[Array, "B height width 3"], batch: ImageBatch
    ) -> tuple[Array, dict[str, Array], dict[str, Array], Metrics]:
        """As `_through_codes`; shows the divergence in nats, and the latents' mean square."""
        params = {"params": params["generator"]}
        pixels, posterior = self.generator.apply(params, real, batch.seed)
        divergence = posterior.kl()
        square = jnp.mean(posterior.mean**2, axis=(1, 2, 3))
        plain = {"kl": divergence, "latent_square": square}
        return pixels, {"kl": self.config.kl_weight * divergence}, plain, {}

    def _perceptual_distance(
        self,
        params: Params,
        fake: Float[Array, "B height width 3"],
        real: Float[Array, "B height width 3"],
    ) -> Float[Array, "B"]:
        """Mean over layers and places of the squared distance of unit feature vectors."""
        features = [self.perceptual.apply({"params": params}, x) for x in (fake, real)]
        distances = []
        for a, b in zip(*features):
            squared = jnp.sum((_unit(a) - _unit(jax.lax.stop_gradient(b))) ** 2, axis=-1)
            distances.append(jnp.mean(squared, axis=(1, 2)))
        return sum(distances) / len(distances)

    def _adversarial(
        self,
        params: Params,
        fake: Float[Array, "B height width 3"],
        real: Float[Array, "B height width 3"],
        step: Array,
    ) -> dict[str, Float[Array, "B"]]:
        """Each side's loss per image (hinge, arXiv 1705.02894): zero, and not computed, too early.

        The discriminator is a constant to the generator's term, the picture to the discriminator's.
        """

        def logits(params, pixels):
            return self.discriminator.apply({"params": params}, pixels)

        def both(params, fake, real):
            fooled = jnp.mean(logits(jax.lax.stop_gradient(params), fake), axis=(1, 2))
            on_fake = logits(params, jax.lax.stop_gradient(fake))
            on_real = logits(params, real)
            hinge = 0.5 * (jax.nn.relu(1.0 + on_fake) + jax.nn.relu(1.0 - on_real))
            return {
                "adversarial": -fooled,
                "discriminator": jnp.mean(hinge, axis=(1, 2)),
                "logit_real": jnp.mean(on_real, axis=(1, 2)),
            }

        def neither(params, fake, real):
            zeros = jnp.zeros(fake.shape[0], jnp.float32)
            return dict.fromkeys(("adversarial", "discriminator", "logit_real"), zeros)

        started = step >= self.config.adversarial_start
        return jax.lax.cond(started, both, neither, params, fake.astype(real.dtype), real)

    def _codes_used(self, codes: Array, weight: Array) -> tuple[Array, Array]:
        """Share of the codebook that the batch uses."""
        size = self.config.vq.num_embeddings
        counted = jnp.broadcast_to(weight[:, None], codes.shape)
        used = jnp.zeros(size).at[codes].add(counted) > 0
        return jnp.sum(used).astype(jnp.float32), jnp.full((), size, jnp.float32)

    def rebuild(
        self, params: Params, pixels: Float[Array, "B height width 3"]
    ) -> Float[Array, "B height width 3"]:
        """What the autoencoder makes of pictures in -1..1; of latents, from their means."""
        generator, params = self.generator, {"params": params["generator"]}
        if self.config.vq is not None:
            return generator.apply(params, pixels).pixels
        mean = generator.apply(params, pixels, method="encode").mean
        return generator.apply(params, mean, method="decode")

    def amounts(self, batch: ImageBatch, as_causal: bool = False) -> dict[str, Array]:
        del as_causal  # no packed rows
        return {cost.IMAGES: jnp.sum(batch.weight)}

    @property
    def costs(self) -> tuple[Cost, ...]:
        """The discriminator counts as if it had started.

        The small perceptual network and the search for codes, which has no gradient, are work
        beside the model's.
        """
        cfg, ae = self.config, self.config.vq or self.config.kl
        kind, search = "KL", 0.0
        if cfg.vq is not None:
            kind, search = "VQ", float(ae.search_flops_per_image())
        encode = float(ae.encode_flops_per_image()) - search
        decode = float(ae.decode_flops_per_image())
        found = [
            Cost(f"{kind} encoder", "tower", "generator", cost.IMAGES, encode),
            Cost(f"{kind} decoder", "tower", "generator", cost.IMAGES, decode),
        ]
        if search:
            of_search = ("VQ encoder", "tower", "", cost.IMAGES, search)
            found.insert(1, Cost(*of_search, times=1.0, counted=False))
        if cfg.semantic is not None:
            n, into = cfg.vq.num_tokens, cfg.vq.embed_dim
            width, seen = cfg.semantic.hidden_size, cfg.teacher.hidden_size
            semantic, head = float(cfg.semantic.flops(n, into)), 2.0 * n * width * seen
            found += [
                Cost("semantic", "tower", "semantic", cost.IMAGES, semantic),
                Cost("semantic", "head", "semantic_head", cost.IMAGES, head),
                Cost("teacher", "tower", "teacher", cost.IMAGES, self.teacher.flops()[0]),
            ]
        if cfg.discriminator is not None:
            # Fooled: forward, and back to the picture. Its own term: both, of two pictures.
            one = float(cfg.discriminator.flops_per_image(cfg.image_size))
            found += [
                Cost("discriminator", "head", "", cost.IMAGES, one, times=2.0),
                Cost("discriminator", "head", "discriminator", cost.IMAGES, 2 * one),
            ]
        if cfg.perceptual_weight:
            one = float(efficientnet_lite.flops_per_image(cfg.image_size, PERCEPTUAL_STAGES))
            # Of both pictures, and back to one.
            found.append(Cost("perceptual", "head", "", cost.IMAGES, one, times=3.0, counted=False))
        return tuple(found)

    lookups: ClassVar[dict[str, str]] = {}
    unused = ()
    own_axes: ClassVar[dict[str, str]] = {}
    losses: ClassVar[dict[str, Loss]] = {}


def psnr(
    fake: Float[Array, "B height width 3"], real: Float[Array, "B height width 3"]
) -> Float[Array, "B"]:
    """Peak signal-to-noise ratio in decibels of pictures in -1..1, the first clipped to it."""
    error = jnp.clip(fake.astype(jnp.float32), -1.0, 1.0) - real.astype(jnp.float32)
    mse = jnp.mean(error**2, axis=(1, 2, 3))
    return 10.0 * jnp.log10(4.0 / jnp.maximum(mse, 1e-10))


def _unit(x: Float[Array, "*batch c"]) -> Float[Array, "*batch c"]:
    """Length 1 over channels, in float32; LPIPS's epsilon."""
    x = x.astype(jnp.float32)
    return x * jax.lax.rsqrt(jnp.sum(x * x, axis=-1, keepdims=True) + 1e-10)


RECIPE = Recipe("tokenizer", Tokenizer, TokenizerConfig, "pictures")
