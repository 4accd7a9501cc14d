"""MetaQuery: learned queries between a frozen multimodal model and a diffusion model.

A picture to be drawn stands in the row as N queries, behind the prompt and between two marks. What
the frozen model (`systems.llava`) makes of them is, through a connector, the condition of a
generator, which learns by its own objective (arXiv 2504.06256, section 3; facebookresearch/
metaquery): a rectified flow for Sana, which trains too, noise for Stable Diffusion's U-Net, which
stays. Queries and marks are parameters of their own beside the frozen table, so all that the base
says it still says, to the bit.

Words of the user are left out now and then, and black pictures stand for those that are shown
(`data.render`), so that drawing can be guided by each (arXiv 2211.09800).

Our choices, where the paper is silent: queries begin at a deviation of 0.02; a picture's latents
are drawn from their distribution where its autoencoder has one; where nothing trains that text
hangs on, a training step does not score text.
"""

import dataclasses
import math

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Bool, Float, Int

from unijax.core import axes, cost, tree
from unijax.core.batch import ImageSlots, Kind, PackedBatch, Target
from unijax.core.bounds import NOT_NEGATIVE, check_numbers
from unijax.core.cost import Cost
from unijax.core.errors import UserError
from unijax.core.making import Queries
from unijax.core.stream import Layout, Mark, Stream
from unijax.core.system import Encoded, Loss, Metrics, Params, Recipe, Sums
from unijax.models import autoencoder, dc_autoencoder, sana, unet
from unijax.models.behind import FrozenPrefix
from unijax.models.connector import Connector, ConnectorConfig
from unijax.models.generators import (
    Generator,
    GeneratorConfig,
    Latents,
    LatentsConfig,
    check_fit,
)
from unijax.models.sana import SanaConfig
from unijax.ops import rows
from unijax.ops.attention import packed_intervals
from unijax.ops.diffusion import (
    EPSILON,
    FLOW,
    NoiseSchedule,
    Sampler,
    V,
    add_noise,
    check_prediction,
    draw_noise,
    draw_timesteps,
    make_sampler,
    target,
)
from unijax.systems import llava
from unijax.systems.latents import noise_loss
from unijax.systems.llava import Llava, LlavaConfig
from unijax.systems.slots import values_of

FLOW_SCHEDULE = NoiseSchedule("flow", shift=3.0)  # Sana's
STABLE_DIFFUSION = NoiseSchedule("scaled_linear", 1000, 0.00085, 0.012)
INIT = nn.initializers.normal(0.02)


@dataclasses.dataclass(frozen=True)
class MetaQueryConfig(LlavaConfig):
    """The frozen model's sizes, and what draws.

    Attributes:
      queries: N, of a picture.
      marks: ids of begin-of-image and end-of-image, which have vectors of their own; released
        models have them behind the rows of the frozen table.
      connector: its `hidden_size` is the decoder's width, its `output_size` the generator's.
      generator: the diffusion network.
      autoencoder: of pictures and latents; frozen.
      schedule: of the noise.
      prediction: what the generator says: "flow_prediction" of a flow; "epsilon" or "v_prediction".
      sampler: of `ops.diffusion`.
      steps: of denoising.
      guidance, image_guidance: of drawing (`core.making.Queries`).

    Raises:
      UserError: parts that do not fit, or numbers out of range.
    """

    queries: int = 256
    marks: tuple[int, ...] = ()
    connector: ConnectorConfig = ConnectorConfig(896, 2304)  # noqa: RUF009 (frozen)
    generator: GeneratorConfig = SanaConfig()  # noqa: RUF009 (frozen)
    autoencoder: LatentsConfig = dc_autoencoder.DCAutoencoderConfig()  # noqa: RUF009 (frozen)
    schedule: NoiseSchedule = FLOW_SCHEDULE
    prediction: str = FLOW
    sampler: str = "dpm_solver"
    steps: int = 30
    guidance: float = 3.0
    image_guidance: float = 1.5

    def __post_init__(self):
        super().__post_init__()
        scales = dict.fromkeys(("guidance", "image_guidance"), NOT_NEGATIVE)
        check_numbers(self, "model", scales)
        check_fit(self.generator, self.autoencoder)
        width = Generator(self.generator).width
        for name, found, expected, where in (
            ("hidden_size", self.connector.hidden_size, self.text.hidden_size,
             "model.text.hidden_size"),
            ("output_size", self.connector.output_size, width,
             "the width of the context that model.generator reads"),
        ):  # fmt: skip
            if found != expected:
                raise UserError(
                    f"model.connector.{name}", f"{found}", f"{expected}, {where}",
                    "Change one of them.",
                )  # fmt: skip
        if self.queries < 1:
            raise UserError("model.queries", f"{self.queries}", "1 or more", "Change it.")
        if len(set(self.marks)) != 2 or min(self.marks) < 0:
            raise UserError(
                "model.marks", f"{self.marks}", "two ids: of begin and of end of image",
                "Take those of the tokenizer's special_tokens.json.",
            )  # fmt: skip
        allowed = (FLOW,) if self.schedule.is_flow else (EPSILON, V)
        check_prediction("model.prediction", self.prediction, allowed)
        self.make_sampler(self.steps)

    def make_sampler(self, steps: int) -> Sampler:
        """Of `steps` denoising steps."""
        return make_sampler(self.sampler, self.schedule, steps, prediction_type=self.prediction)


@dataclasses.dataclass(frozen=True)
class MetaQuery(Llava):
    """The recipe.

    Parameter groups: those of the frozen model (`Llava`), `queries`, `connector`, `generator` and
    `autoencoder`, which stages freeze.
    """

    config: MetaQueryConfig

    encoders = frozenset({"vision_model", "autoencoder"})
    adapts = "(connector|generator)/"

    @property
    def keeps(self) -> tuple[str, ...]:
        """The multimodal model whole; of generators Stable Diffusion's stays too (section 4)."""
        groups = set(super()._parts()) | {"autoencoder"}
        if self.config.generator.kind != SanaConfig.kind:
            groups.add("generator")
        return tuple(f"{group}/" for group in sorted(groups))

    @property
    def unused(self) -> tuple[str, ...]:
        return tuple(f"autoencoder/{path}" for path in self.autoencoder.unused)

    @property
    def layout(self) -> Layout:
        n, side = self.config.queries, self.config.autoencoder.image_size
        begin, end = self.config.marks
        gen = Stream(
            "gen", "gen", Kind.QUERY, n, side, before=Mark("boi", id=begin),
            after=Mark("eoi", id=end), target=Target.NOISE, answers=(0, 0), unconditional="words",
        )  # fmt: skip
        return Layout((self._und, gen), super().layout.start)

    @property
    def encoded(self) -> dict[str, Encoded]:
        shape = self.autoencoder.encoded_shape
        made = Encoded("autoencoder", "latents", shape, "float32", "encode_gen")
        return super().encoded | {"gen": made}

    @property
    def losses(self) -> dict[str, Loss]:
        return super().losses | {"noise": Loss("MSE", "gen", "pictures to draw")}

    @property
    def maker(self) -> Queries:
        c = self.config
        return Queries(
            "gen", c.queries, self.autoencoder.shape, "query_inputs", "condition", "predict",
            "sampler_of", "encode_latents", "decode_latents", "autoencoder", c.steps, c.guidance,
            c.image_guidance,
        )  # fmt: skip

    @property
    def vocab_size(self) -> int:
        return max(self.config.text.vocab_size, max(self.config.marks) + 1)

    @property
    def connector(self) -> Connector:
        return Connector(self.config.connector, self.remat, **self._kinds)

    @property
    def generator(self) -> Generator:
        return Generator(self.config.generator, self.remat, **self._kinds)

    @property
    def autoencoder(self) -> Latents:
        return Latents(self.config.autoencoder, **self._kinds)

    def _parts(self) -> dict:
        width = self.config.text.hidden_size
        hidden = jnp.zeros((1, self.config.queries, width), self.dtype)
        return super()._parts() | {
            "queries": self._init_queries,
            "connector": lambda k: self.connector.init(k, hidden),
            "generator": self.generator.init,
            "autoencoder": self.autoencoder.init,
        }

    def _init_queries(self, key: Array) -> Params:
        width, keys = self.config.text.hidden_size, jax.random.split(key)
        init = nn.with_logical_partitioning(INIT, (axes.POSITIONS, axes.EMBED))
        sizes = {"embedding": self.config.queries, "marks": 2}
        found = {n: init(k, (m, width), self.param_dtype) for k, (n, m) in zip(keys, sizes.items())}
        return {"params": found}

    # Pictures and latents

    def encode_gen(
        self, params: Params, pixels: Float[Array, "B height width 3"]
    ) -> Float[Array, "B h w both"]:
        """What the autoencoder makes of pictures in [-1, 1]."""
        return self.autoencoder.encode(params["autoencoder"], pixels)

    def encode_latents(
        self, params: Params, pixels: Float[Array, "B height width 3"]
    ) -> Float[Array, "B h w C"]:
        """Scaled latents of pictures in [-1, 1], their means."""
        return self.autoencoder.scaled(self.encode_gen(params, pixels))

    def decode_latents(
        self, params: Params, latents: Float[Array, "B h w C"]
    ) -> Float[Array, "B height width 3"]:
        """Pixels in [-1, 1] (not clipped) of scaled latents."""
        return self.autoencoder.decode(params["autoencoder"], latents)

    # Inputs

    def embed_text(self, params: Params, ids: Int[Array, "*b"]) -> Float[Array, "*b D"]:
        """Rows of the frozen table, and the vectors of the two marks."""
        begin, end = self.config.marks
        is_mark = (ids == begin) | (ids == end)
        x = super().embed_text(params, jnp.where(is_mark, 0, ids))
        marks = params["queries"]["marks"].astype(self.dtype)
        return jnp.where(is_mark[..., None], marks[(ids == end).astype(jnp.int32)], x)

    def query_inputs(self, params: Params, count: int) -> Float[Array, "B N D"]:
        """The queries of so many pictures."""
        queries = params["queries"]["embedding"].astype(self.dtype)
        return jnp.broadcast_to(queries, (count, *queries.shape))

    def embed(self, params: Params, batch: PackedBatch) -> Float[Array, "B T D"]:
        """Every position's embedding; of a picture to draw the queries."""
        x = super().embed(params, batch)
        if "gen" not in batch.images:
            return x
        b, i = batch.images["gen"].weight.shape
        queries = self.query_inputs(params, b * i).reshape(b, i, self.config.queries, -1)
        return rows.place(x, queries, batch.tokens, batch.kind == Kind.QUERY)

    # What draws

    def condition(self, params: Params, hidden: Float[Array, "B N D"]) -> Float[Array, "B N K"]:
        """What the generator is shown, of the hidden states of pictures' queries."""
        return self.connector.apply({"params": params["connector"]}, hidden)

    def predict(
        self,
        params: Params,
        latents: Float[Array, "B h w C"],
        timestep: Float[Array, "B"],
        context: Float[Array, "B N K"],
    ) -> Float[Array, "B h w C"]:
        """What `config.prediction` names, of noised latents. Float32."""
        return self.generator(params["generator"], latents, timestep, context)

    def sampler_of(self, steps: int) -> Sampler:
        """Of `steps` denoising steps."""
        return self.config.make_sampler(steps)

    # What the loop knows

    def _share(self, batch: PackedBatch) -> Float[Array, "B I"]:
        """Of every picture to draw its share in the loss: the mean weight of its queries."""
        if "gen" not in batch.images:
            return jnp.zeros((batch.tokens.shape[0], 0))
        here, slots = batch.target_kind == Target.NOISE, batch.images["gen"].weight.shape[1]
        weight = batch.weight[..., None]
        of_queries = rows.collect(weight, batch.target, here, (slots, self.config.queries))
        return jnp.mean(of_queries, axis=(2, 3))

    def timesteps(self, slots: ImageSlots) -> Int[Array, "B I"]:
        """Of every picture, from its seed."""
        count = jnp.full(slots.seed.shape, self.config.schedule.num_train_timesteps)
        return draw_timesteps(slots.seed, count)

    def weights(self, batch: PackedBatch) -> Sums:
        """Text is a mean over its tokens, noise over pictures."""
        return super().weights(batch) | {"noise": self._share(batch).sum()}

    def counts(self, batch: PackedBatch) -> Metrics:
        learned = llava._texts(batch) | {"noise": batch.target_kind == Target.NOISE}
        return rows.counts(batch, self.layout, learned)

    def loss(
        self,
        params: Params,
        batch: PackedBatch,
        key: Array | None,
        step: Array,
        frozen: frozenset[str],
    ) -> tuple[Sums, Metrics]:
        """Summed cross-entropy of text, and the generator's mean square error of every picture.

        The metric `noise/loss` is of all pictures, `noise/loss/q0` to `q3` of the quarters of the
        schedule from little noise to much.
        """
        del step
        x = self.embed(params, batch)
        if "gen" in batch.images and self._base_is_frozen(params, frozen):
            sums, metrics = {"text": jnp.zeros(())}, {}
            of_queries = self.behind_frozen(params, x, batch)
        else:
            hidden = self.states(params, x, batch, key)
            sums, metrics = self._read(params, hidden, batch, frozen)
            if "gen" not in batch.images:
                return sums | {"noise": jnp.zeros(())}, metrics
            slots = batch.images["gen"].weight.shape[1], self.config.queries
            at = batch.kind == Kind.QUERY
            of_queries = rows.collect(hidden, batch.tokens, at, slots)
        found, of_noise = self._noise(params, of_queries, batch)
        return sums | {"noise": found}, metrics | of_noise

    def _base_is_frozen(self, params: Params, frozen: frozenset[str]) -> bool:
        """Whether of what stands before the queries nothing learns, nor is dropped."""
        base = {n: params[n] for n in ("language_model", "vision_model", "aligner") if n in params}
        return not self.config.text.dropout and tree.flatten(base).keys() <= frozen

    def behind_frozen(
        self, params: Params, x: Float[Array, "B T D"], batch: PackedBatch
    ) -> Float[Array, "B I N D"]:
        """Hidden states of the queries; what stands before them has no backward pass.

        Each picture has N + 1 positions that learn: the mark before its queries, and these.
        """
        n, (b, i) = self.config.queries, batch.images["gen"].weight.shape
        address, here = self._own(batch)
        where, there = rows.places(address, here, i * (n + 1))
        position = self.positions(batch)

        def own(values: Array, empty: int = 0) -> Array:
            flat = values.reshape(*values.shape[:2], -1)
            found = jnp.take_along_axis(flat, where[..., None], axis=1)
            found = jnp.where(there[..., None], found, jnp.asarray(empty, flat.dtype))
            return found.reshape(b, i * (n + 1), *values.shape[2:])

        seen = packed_intervals(batch.segment, batch.kind, batch.image)
        length = batch.tokens.shape[1]
        of_own = tuple(own(ends, length) for ends in seen)  # an empty slot sees nothing
        decoder = FrozenPrefix(self.config.text, self.remat, **self._kinds)
        p = {"params": params["language_model"]}
        p = {"params": {name: p["params"][name] for name in ("layers", "norm")}}
        kept = decoder.apply(p, x, position, seen, method="keys")
        hidden = decoder.apply(
            p, own(x), kept, own(position), of_own, address, here, method="behind"
        )
        return hidden.reshape(b, i, n + 1, -1)[:, :, 1:]

    def _own(self, batch: PackedBatch) -> tuple[Int[Array, "B T"], Bool[Array, "B T"]]:
        """Of every position that depends on what trains, which of the pictures' N + 1 it is."""
        n, query = self.config.queries, batch.kind == Kind.QUERY
        slot, offset = batch.tokens // n, batch.tokens % n
        behind = jnp.pad(query & (offset == 0), ((0, 0), (0, 1)))[:, 1:]  # the next is a first one
        of_next = jnp.pad(slot, ((0, 0), (0, 1)))[:, 1:]
        address = jnp.where(query, slot * (n + 1) + offset + 1, of_next * (n + 1))
        return address, query | (behind & (batch.kind == Kind.TEXT))

    def _noise(
        self, params: Params, hidden: Float[Array, "B I N D"], batch: PackedBatch
    ) -> tuple[Array, Metrics]:
        c, slots = self.config, batch.images["gen"]
        b, i = slots.weight.shape
        encoded = jax.lax.stop_gradient(values_of(self, params, batch, "gen"))
        clean = self.autoencoder.scaled(encoded, slots.seed)
        timestep = self.timesteps(slots)
        noise, level = draw_noise(slots.seed, clean.shape[2:]), c.schedule.level(timestep)
        noised = add_noise(clean, noise, level)
        flat = lambda x: x.reshape(b * i, *x.shape[2:])  # noqa: E731
        told = flat(c.schedule.model_timestep(timestep))
        context = self.condition(params, flat(hidden))
        found = self.predict(params, flat(noised), told, context).reshape(noised.shape)
        wanted = target(c.prediction, clean, noise, level)
        error = jnp.mean(jnp.square(found - wanted), axis=(2, 3, 4))
        return noise_loss(error, self._share(batch), timestep, c.schedule)

    @property
    def costs(self) -> tuple[Cost, ...]:
        c, made = self.config, cost.images_of("gen")
        n = c.queries
        of_connector = float(c.connector.flops(n)), float(c.connector.last_flops(n))
        return (
            *super().costs,
            Cost("connector", "adaptor", "connector", made, *of_connector),
            Cost(self.generator.name, "adaptor", "generator", made,
                 float(c.generator.flops_per_image(n))),
            Cost("autoencoder", "tower", "autoencoder", cost.encoded_of("gen"),
                 float(c.autoencoder.encode_flops_per_image()), backward=False),
        )  # fmt: skip

    @property
    def modalities(self) -> dict[str, dict[str, float]]:
        each = 1 / self.config.queries
        made = {cost.images_of("gen"): each, cost.encoded_of("gen"): each}
        return super().modalities | {"queries": {cost.TOKENS: 1.0} | made}


def _published(base: str, generator: str) -> MetaQueryConfig:
    """Sana with 256 queries, or Stable Diffusion 1.5 with 77."""
    of = llava.SIZES[base]
    fields = {f.name: getattr(of, f.name) for f in dataclasses.fields(of)}
    first = of.text.vocab_size
    shared = fields | {"marks": (first, first + 1)}
    width = of.text.hidden_size
    if generator == "sana":
        network = sana.SIZES["sana_1600m"]
        connector = ConnectorConfig(width, network.caption_channels, scale=math.sqrt(5.5))
        return MetaQueryConfig(**shared, connector=connector, generator=network)
    network = unet.SIZES["sd15_unet"]
    return MetaQueryConfig(
        **shared, queries=77, connector=ConnectorConfig(width, network.cross_attention_dim),
        generator=network, autoencoder=autoencoder.SIZES["sd_vae"], schedule=STABLE_DIFFUSION,
        prediction=EPSILON,
    )  # fmt: skip


# The project page's three models, each with both generators.
BASES = {"b": "llava_onevision_0.5b", "l": "qwen2.5_vl_3b", "xl": "qwen2.5_vl_7b"}
SIZES = {
    f"metaquery_{size}_{generator}": _published(base, generator)
    for size, base in BASES.items()
    for generator in ("sana", "sd")
}

RECIPE = Recipe(
    "metaquery",
    MetaQuery,
    MetaQueryConfig,
    "rows",
    SIZES,
    "unijax.systems.metaquery_ladders:LADDERS",
)
