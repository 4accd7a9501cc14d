"""Drawing with guidance, answering and denoising, beside what memory and products allow."""

import dataclasses
import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from bench.device_check import rows, step
from bench.device_check.program import Program, measure_all, random_like, size_of
from bench.device_check.worker import Asked
from unijax.core.system import RowSystem, init_shapes
from unijax.models.autoencoder import AutoencoderConfig
from unijax.models.latent_patches import LatentPatchesConfig
from unijax.models.llama import LlamaConfig
from unijax.ops.diffusion import SAMPLERS
from unijax.sample.image import draw_codes
from unijax.sample.in_place import draw_latents
from unijax.sample.logits import Sampling
from unijax.sample.queries import draw_with_queries
from unijax.sample.text import write_ids
from unijax.systems.janus import Janus
from unijax.systems.lmfusion import SIZES as LMFUSION
from unijax.systems.lmfusion import LMFusion
from unijax.systems.metaquery import SIZES as METAQUERY
from unijax.systems.metaquery import MetaQuery
from unijax.systems.transfusion import SIZES as TRANSFUSION
from unijax.systems.transfusion import Transfusion, TransfusionConfig

BATCHES = (1, 8, 32)
PROMPT = 64  # tokens
NEVER = -1  # an id that ends no answer


@dataclasses.dataclass(frozen=True)
class Sizes:
    """Of what draws and answers.

    Attributes:
      answer: tokens of an answer.
      steps: of denoising.
      samplers: that denoise.
    """

    janus: Janus
    transfusion: Transfusion
    lmfusion: LMFusion | None
    metaquery: MetaQuery | None
    batches: tuple[int, ...]
    prompt: int
    answer: int
    steps: int
    samplers: tuple[str, ...]


def sizes(small: bool) -> Sizes:
    kinds: dict[str, Any] = {"dtype": jnp.bfloat16, "param_dtype": jnp.bfloat16}
    janus = Janus(step.size(small).model, **kinds)
    if not small:
        transfusion = Transfusion(TRANSFUSION["transfusion_0.76b_unet"], **kinds)
        lmfusion = LMFusion(LMFUSION["lmfusion_8b"], **kinds)
        metaquery = MetaQuery(METAQUERY["metaquery_b_sana"], **kinds)
        return Sizes(
            janus, transfusion, lmfusion, metaquery, BATCHES, PROMPT, answer=128, steps=25,
            samplers=("ddim", *(name for name in SAMPLERS if name != "ddim")),
        )  # fmt: skip
    text = LlamaConfig(64, 32, 64, 1, 2, 2, 16)
    autoencoder = AutoencoderConfig(16, 4, (32, 32), 1, scaling_factor=1.0)
    config = TransfusionConfig(text, autoencoder, LatentPatchesConfig(8, 4, 2))
    return Sizes(
        janus,
        Transfusion(config, **kinds),
        None,
        None,
        (1,),
        16,
        answer=8,
        steps=2,
        samplers=("ddim",),
    )


def decoding_shapes(system: RowSystem) -> Any:
    """Of the parameters as `decode` takes them."""
    return jax.eval_shape(system.for_decoding, nn.unbox(init_shapes(system)))


def _given(system: RowSystem, count: int, length: int) -> tuple:
    """Parameters, prompts and their lengths."""
    vocabulary = system.vocab_size
    prompt = jax.tree.map(jnp.asarray, rows.prompts(system.layout, count, length, vocabulary))
    return random_like(decoding_shapes(system)), prompt, jnp.full(count, length, jnp.int32)


def read_of_a_token(system: RowSystem, *heads: str) -> int:
    """Bytes of what every token reads: the decoder's layers, and the parts in `heads`."""
    shapes = decoding_shapes(system)
    decoder = shapes.get("image_twin", shapes["language_model"])  # what images go through
    language = {k: x for k, x in decoder.items() if k != "embed_tokens"}
    if "lm_head" not in heads:
        language.pop("lm_head", None)
    return size_of(language) + sum(size_of(shapes[name]) for name in heads if name != "lm_head")


def cache_reads(system: RowSystem, count: int, first: int, tokens: int) -> float:
    """Bytes of keys and values that so many tokens of each of `count` rows read."""
    text = system.config.text
    entry = 2 * text.num_hidden_layers * text.num_key_value_heads * text.head_dim * 2
    return float(count) * entry * sum(range(first, first + tokens))


def draw(of: Sizes, batch: int) -> Program:
    """Codes of pictures, with guidance: two rows a picture."""
    system, count = of.janus, of.janus.maker.tokens
    text = system.config.text

    def make() -> tuple:
        seeds = jnp.arange(batch, dtype=jnp.uint32)
        return (*_given(system, 2 * batch, of.prompt), seeds, Sampling().choice(), jnp.float32(5))

    each = text.flops_per_token() + next(c.forward for c in system.costs if c.name == "image head")
    return Program(
        f"drawing, {batch}",
        functools.partial(draw_codes, system),
        make,
        flops=2.0 * batch * count * each,
        moved=count * read_of_a_token(system, "generation_head")
        + cache_reads(system, 2 * batch, of.prompt, count),
        amount=batch,
        unit="picture",
    )


def answer(of: Sizes, batch: int) -> Program:
    """Ids after a prompt, all of the same length."""
    system, count = of.janus, of.answer
    text = system.config.text

    def make() -> tuple:
        ends, seeds = jnp.array([NEVER], jnp.int32), jnp.arange(batch, dtype=jnp.uint32)
        return (
            *_given(system, batch, of.prompt), ends, seeds, Sampling().choice(), jnp.int32(count)
        )  # fmt: skip

    head = 2.0 * text.hidden_size * text.vocab_size
    return Program(
        f"answering, {batch}",
        functools.partial(write_ids, system, space=count),
        make,
        flops=batch * count * (text.flops_per_token() + head),
        moved=count * read_of_a_token(system, "lm_head")
        + cache_reads(system, batch, of.prompt, count),
        amount=batch * count,
        unit="token",
    )


def denoising(of: Sizes, system: Transfusion, sampler: str, batch: int) -> Program:
    """Latents of pictures inside the row, with guidance."""
    config = dataclasses.replace(system.config, sampler=sampler)
    system = dataclasses.replace(system, config=config)
    text, n = config.text, system.maker.tokens
    calls = system.sampler_of(of.steps).calls

    def make() -> tuple:
        seeds = jnp.arange(batch, dtype=jnp.uint32)
        return (*_given(system, 2 * batch, of.prompt), seeds, jnp.float32(3))

    def fn(params, prompt, length, seeds, guidance):
        return draw_latents(system, params, prompt, length, seeds, guidance, of.steps)

    pairs = n * (of.prompt + n)
    each = n * text.flops_per_token() + pairs * text.flops_per_pair() + config.image_flops()
    group = "image_layers"
    return Program(
        f"{type(system).__name__}, {sampler}, {of.steps} steps, {batch}",
        fn,
        make,
        flops=2.0 * batch * calls * each,
        moved=float(calls) * read_of_a_token(system, group),
        amount=batch,
        unit="picture",
    )


def with_queries(of: Sizes, system: MetaQuery, batch: int) -> Program:
    """Latents of pictures that a generator makes of learned queries, with guidance of words."""
    text, n = system.config.text, system.maker.tokens
    calls = system.sampler_of(of.steps).calls

    def make() -> tuple:
        seeds = jnp.arange(batch, dtype=jnp.uint32)
        return (*_given(system, 2 * batch, of.prompt), seeds, jnp.float32(3))

    def fn(params, prompt, length, seeds, guidance):
        return draw_with_queries(system, params, prompt, length, seeds, guidance, of.steps)

    generator = system.config.generator.flops_per_image(n)
    once = (of.prompt + n) * text.flops_per_token() + system.config.connector.flops(n)
    return Program(
        f"MetaQuery, {system.config.sampler}, {of.steps} steps, {batch}",
        fn,
        make,
        flops=2.0 * batch * (calls * generator + once),
        moved=float(calls) * size_of(decoding_shapes(system)["generator"]),
        amount=batch,
        unit="picture",
    )


def programs(small: bool = False, batches: tuple[int, ...] = ()) -> list[Program]:
    """In the order in which they matter.

    Args:
      batches: pictures, or answers, in place of those of the sizes.
    """
    of = sizes(small)
    of = dataclasses.replace(of, batches=batches or of.batches)
    found = [draw(of, n) for n in of.batches]
    found += [denoising(of, of.transfusion, of.samplers[0], n) for n in of.batches]
    found += [answer(of, n) for n in of.batches]
    if of.lmfusion is not None:
        found.append(denoising(of, of.lmfusion, of.samplers[0], 1))
    if of.metaquery is not None:
        found += [with_queries(of, of.metaquery, n) for n in of.batches]
    middle = of.batches[len(of.batches) // 2]
    return found + [denoising(of, of.transfusion, name, middle) for name in of.samplers[1:]]


def run(asked: Asked) -> None:
    measure_all(programs(asked.small), asked)
