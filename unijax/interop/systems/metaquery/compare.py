"""What is compared of a MetaQuery: a prompt with a picture, its condition, what is drawn of it."""

import dataclasses
import functools
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from unijax.core.batch import Kind, PackedBatch
from unijax.core.system import Params
from unijax.interop.diffusers_scheduler import scheduler_json
from unijax.interop.interface import Outputs
from unijax.interop.opening import ForeignModel
from unijax.interop.rows import ROWS, addresses, column, rows, slots
from unijax.ops.diffusion import denoise
from unijax.ops.image import CLIP_MEAN, CLIP_STD
from unijax.systems.metaquery import MetaQuery, MetaQueryConfig

_WORDS = 6  # random text ids before and behind a picture
_STEPS = 4  # of denoising
_GUIDANCE = 3.0


@dataclasses.dataclass(frozen=True)
class Prompts:
    """Inputs of a comparison.

    Attributes:
      before, after: int ids [B, n] around a picture that is shown.
      pixels: float32 [B, height, width, 3] in -1..1, that picture.
      drawn: the same, of a picture to encode.
      latents: float32 [B, h, w, C], noised.
      timestep: float32 [B].
      noise: float32 [1, h, w, C], what a picture is drawn from.
    """

    before: np.ndarray
    after: np.ndarray
    pixels: np.ndarray
    drawn: np.ndarray
    latents: np.ndarray
    timestep: np.ndarray
    noise: np.ndarray


def prompts(config: MetaQueryConfig, directory: pathlib.Path, rng: np.random.Generator) -> Prompts:
    """At random."""
    del directory
    ordinary = np.setdiff1d(np.arange(config.text.vocab_size), config.marks)
    words = lambda: rng.choice(ordinary, (ROWS, _WORDS))  # noqa: E731
    side, ae = config.vision.image_size, config.autoencoder
    shape = (ae.grid, ae.grid, ae.latent_channels)
    pixels = lambda size: rng.uniform(-1, 1, (ROWS, size, size, 3)).astype(np.float32)  # noqa: E731
    normal = functools.partial(rng.standard_normal, dtype=np.float32)
    return Prompts(
        words(), words(), pixels(side), pixels(ae.image_size), normal((ROWS, *shape)),
        np.array([3.0, 741.0], np.float32), normal((1, *shape)),
    )  # fmt: skip


def ours(config: MetaQueryConfig, params: Params, given: Prompts, theirs: Outputs) -> Outputs:
    """Our outputs, as `theirs` has them."""
    del theirs
    batch = rows(
        [
            (Kind.TEXT, given.before),
            (Kind.UND, addresses(config.picture_tokens)),
            (Kind.TEXT, given.after),
            (Kind.TEXT, column(config.marks[0])),
            (Kind.QUERY, addresses(config.queries)),
            (Kind.TEXT, column(config.marks[1])),
        ],
        gen=slots(latents=given.latents[:, None]),
    )
    inputs = given.pixels, given.drawn, given.latents, given.timestep, given.noise
    return jax.device_get(_forward(config, params, batch, *inputs))


@functools.partial(jax.jit, static_argnums=0)
def _forward(
    config: MetaQueryConfig,
    params: Params,
    batch: PackedBatch,
    pixels: Array,
    drawn: Array,
    latents: Array,
    timestep: Array,
    noise: Array,
) -> dict[str, Array]:
    system = MetaQuery(config)
    features = system.encode_und(params, pixels)
    shown = batch.images | {"und": slots(features=features[:, None])}
    batch = batch.replace(images=shown)
    end = batch.tokens.shape[1] - 1
    hidden = system.states(params, system.embed(params, batch), batch)
    queries = hidden[:, end - config.queries : end]
    condition = system.condition(params, queries)

    def predict(x: Array, at: Array, kept: None) -> tuple[Array, None]:
        both = jnp.concatenate([x, x])
        out = system.predict(params, both, jnp.broadcast_to(at, 2), condition)
        return out[1:] + _GUIDANCE * (out[:1] - out[1:]), kept

    return {
        "features": features,
        "queries": queries,
        "condition": condition,
        "prediction": system.predict(params, latents, timestep, condition),
        "latents": system.encode_latents(params, drawn),
        "decoded": system.decode_latents(params, latents),
        "drawn": denoise(config.make_sampler(_STEPS), noise, predict),
    }


def theirs(model: ForeignModel, given: Prompts) -> Outputs:
    """Outputs of an export, each part run by those who wrote it, channels last as ours.

    Returns:
      `features` of the picture that is shown, hidden states of the `queries`, their `condition`,
      the generator's `prediction`, `latents` of a picture, `decoded` pictures, `drawn` latents of a
      few guided steps.
    """
    import diffusers
    import torch

    from unijax.interop.systems.metaquery import networks
    from unijax.interop.systems.metaquery.networks import within

    config = model.config
    names = model.weights.tensors
    state = {n: torch.from_numpy(np.array(model.weights.read(n), np.float32)) for n in names}
    base = within(state, "model.mllm_backbone.")
    decoder = within(base, "model." if config.merges else "language_model.model.")
    table = decoder.pop("embed_tokens.weight")
    language = networks.decoder(config.text, decoder)
    connector = networks.connector(config.connector)
    connector.load_state_dict(within(state, "model.connector."))
    generator = networks.of_diffusers(config.generator, within(state, "model.transformer."))
    autoencoder = networks.of_diffusers(config.autoencoder, within(state, "vae."))

    def first(x: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(np.moveaxis(x, -1, 1).copy())

    def last(x: torch.Tensor) -> torch.Tensor:
        return x.movedim(1, -1)

    with torch.no_grad():
        features = _features(config, base, given.pixels)
        picture = features
        if not config.merges:
            picture = _projected(config, base, features)
        first_mark = config.text.vocab_size
        own = torch.arange(first_mark + 2, first_mark + 2 + config.queries)
        ids = lambda x: table[torch.as_tensor(x)]  # noqa: E731
        each = lambda x: x[None].expand(ROWS, -1, -1)  # noqa: E731
        x = torch.cat(
            [
                ids(given.before), picture, ids(given.after), each(table[first_mark][None]),
                each(table[own]),
            ],
            dim=1,
        )  # fmt: skip
        position = {}
        if config.text.mrope_section:
            position = {"position_ids": _positions(config, x.shape[1])}
        hidden = language(inputs_embeds=x, **position).last_hidden_state[:, -config.queries :]
        condition = connector(hidden)
        told = torch.from_numpy(given.timestep)

        def predicted(latents: torch.Tensor, at: torch.Tensor) -> torch.Tensor:
            return generator(latents, encoder_hidden_states=condition, timestep=at).sample

        encoded = autoencoder.encode(first(given.drawn))
        latents = encoded.latent if hasattr(encoded, "latent") else encoded.latent_dist.mean
        ae = config.autoencoder
        shift = getattr(ae, "shift_factor", 0.0)
        unscaled = first(given.latents) / ae.scaling_factor + shift
        values = scheduler_json(config.make_sampler(_STEPS))
        scheduler = getattr(diffusers, values["_class_name"]).from_config(values)
        scheduler.set_timesteps(_STEPS)
        drawn = first(given.noise)
        for at in scheduler.timesteps:
            both = predicted(torch.cat([drawn, drawn]), at.float().expand(2))
            guided = both[1:] + _GUIDANCE * (both[:1] - both[1:])
            drawn = scheduler.step(guided, at, drawn).prev_sample
        out = {
            "features": features,
            "queries": hidden,
            "condition": condition,
            "prediction": last(predicted(first(given.latents), told)),
            "latents": last((latents - shift) * ae.scaling_factor),
            "decoded": last(autoencoder.decode(unscaled).sample),
            "drawn": last(drawn),
        }
    return {name: value.float().numpy() for name, value in out.items()}


def _features(config: MetaQueryConfig, base, pixels: np.ndarray):
    """Of the tower, as the decoder or the projector takes them."""
    import torch

    from unijax.interop.systems.metaquery import networks

    v = config.vision
    if not config.merges:
        tower = networks.tower(config, networks.within(base, "vision_tower.vision_model."))
        given = torch.from_numpy(np.moveaxis(pixels, -1, 1).copy())
        out = tower(pixel_values=given, output_hidden_states=True)
        return out.last_hidden_state if v.features == "post_norm" else out.hidden_states[-1]
    tower = networks.tower(config, networks.within(base, "visual."))
    size, merge, side = v.patch_size, v.spatial_merge_size, v.image_size // v.patch_size
    x = ((pixels + 1) / 2 - np.float32(CLIP_MEAN)) / np.float32(CLIP_STD)
    x = x.reshape(ROWS, side // merge, merge, size, side // merge, merge, size, 3)
    x = x.transpose(0, 1, 4, 2, 5, 7, 3, 6).reshape(ROWS * side * side, 3, 1, size, size)
    patches = torch.from_numpy(np.repeat(x, 2, axis=2).reshape(len(x), -1).astype(np.float32))
    grid = torch.tensor([[1, side, side]] * ROWS)
    return tower(patches, grid_thw=grid).pooler_output.reshape(ROWS, v.num_tokens, -1)


def _projected(config: MetaQueryConfig, base, features):
    import torch

    from unijax.interop.systems.metaquery.networks import within

    own = within(base, "multi_modal_projector.")
    linear = torch.nn.functional.linear
    h = linear(features, own["linear_1.weight"], own["linear_1.bias"])
    whole = linear(torch.nn.functional.gelu(h), own["linear_2.weight"], own["linear_2.bias"])
    if not config.newline:
        return whole
    side, width = round(config.vision.num_tokens**0.5), whole.shape[-1]
    ends = base["image_newline"].expand(ROWS, side, 1, width)
    grid = torch.cat([whole.reshape(ROWS, side, side, width), ends], dim=2)
    return torch.cat([whole, grid.reshape(ROWS, side * (side + 1), width)], dim=1)


def _positions(config: MetaQueryConfig, length: int):
    """Of three axes, [3, B, T], by transformers."""
    import torch
    import transformers

    module = transformers.models.qwen2_5_vl
    v = config.vision
    of = module.configuration_qwen2_5_vl.Qwen2_5_VLConfig(
        vision_config={"spatial_merge_size": v.spatial_merge_size}
    )
    kinds = torch.zeros(ROWS, length, dtype=torch.int)
    kinds[:, _WORDS : _WORDS + v.num_tokens] = 1
    side = v.image_size // v.patch_size
    rules = module.modeling_qwen2_5_vl.Qwen2_5_VLModel
    model = rules.__new__(rules)
    torch.nn.Module.__init__(model)
    model.config = of
    grid = torch.tensor([[1, side, side]] * ROWS)
    return rules.get_rope_index(model, kinds, kinds, image_grid_thw=grid)[0]
