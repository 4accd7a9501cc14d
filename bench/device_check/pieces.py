"""Heads with losses by chunk, image tokenizers, the optimizer: each beside its roofline."""

import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array

from bench.device_check import step
from bench.device_check.program import Program, measure_all, random_like, size_of
from bench.device_check.worker import Asked
from unijax.core import tree
from unijax.core.system import init_shapes
from unijax.models.autoencoder import SIZES as AUTOENCODERS
from unijax.models.autoencoder import AutoencoderKL
from unijax.models.dc_autoencoder import SIZES as DC_AUTOENCODERS
from unijax.models.generators import Latents, LatentsConfig
from unijax.models.vqgan import VQGAN
from unijax.ops.cross_entropy import head_loss
from unijax.systems.janus import Janus
from unijax.train import kinds
from unijax.train.optimizer import GroupedOptimizer
from unijax.train.stage import match_rules

CHUNKS = (512, 1024, 2048, 4096)
PICTURES = 8
KIND = jnp.bfloat16
# Of AdamW in float32: gradients read twice (their norm first), parameters and both moments read
# and written.
MOVED_OF_A_PARAMETER = 8 + 8 + 16
_FLOPS = "{}_flops_per_image"


def head(of: step.Size, name: str, classes: int, chunk: int) -> Program:
    """A linear head with its loss and gradients over the rows of a step."""
    width, tokens = of.model.text.hidden_size, of.rows * of.length
    kernel = jax.ShapeDtypeStruct((width, classes), jnp.float32)
    hidden = jax.ShapeDtypeStruct((of.rows, of.length, width), KIND)

    def make() -> tuple:
        answers = jnp.arange(tokens, dtype=jnp.int32).reshape(of.rows, of.length) % classes
        params = {"kernel": random_like(kernel)}
        return params, random_like(hidden), answers, jnp.ones((of.rows, of.length), jnp.float32)

    def linear(params: Any, x: Array) -> Array:
        return x @ params["kernel"].astype(x.dtype)

    def fn(params, hidden, answers, weight):
        def loss(params, hidden):
            return head_loss(
                linear, params, hidden, answers, weight, chunk=chunk, by_class=True
            ).sum

        return jax.value_and_grad(loss, (0, 1))(params, hidden)

    return Program(
        f"{name} head, {classes} classes, chunks of {chunk}",
        fn,
        make,
        flops=6.0 * tokens * width * classes,
        moved=2.0 * size_of(kernel) + 2.0 * size_of(hidden),
        amount=tokens,
        unit="token",
    )


def image_tokenizers(of: step.Size, configs: dict[str, LatentsConfig]) -> list[Program]:
    """Both ways of the VQ tokenizer and of autoencoders with plain latents, in 16 bits."""
    own = dict(dtype=KIND, param_dtype=KIND)
    vq = of.model.vq
    found = [(f"VQ at {vq.image_size}", VQGAN(vq, **own), vq)]
    for name, config in configs.items():
        module = Latents(config, **own).module
        found.append((f"{name} at {config.image_size}", module, config))
    ways = [(one, way) for one in found for way in ("encode", "decode")]
    return [_way(*one, way) for one, way in ways if hasattr(one[2], _FLOPS.format(way))]


def _way(name: str, module: nn.Module, config: Any, way: str) -> Program:
    side = config.image_size
    pixels = jax.ShapeDtypeStruct((PICTURES, side, side, 3), KIND)
    drawn = isinstance(module, AutoencoderKL)
    seeds = [] if not drawn else [jax.ShapeDtypeStruct((PICTURES,), jnp.uint32)]

    def init(*inputs: Array) -> Any:
        return nn.unbox(module.init(jax.random.key(0), *inputs))

    shapes = jax.eval_shape(init, pixels, *seeds)

    def made() -> Any:
        if way == "encode":
            return random_like(pixels)
        if isinstance(module, VQGAN):
            ids = jnp.arange(PICTURES * config.num_tokens, dtype=jnp.int32)
            return ids.reshape(PICTURES, -1) % config.num_embeddings
        shape = PICTURES, config.grid, config.grid, config.latent_channels
        return random_like(jax.ShapeDtypeStruct(shape, jnp.float32))

    flops = getattr(config, _FLOPS.format(way))()
    return Program(
        f"{name}, {way}, {PICTURES}",
        functools.partial(module.apply, method=way),
        lambda: (random_like(shapes), made()),
        flops=float(PICTURES * flops),
        moved=float(size_of(shapes) + size_of(pixels)),
        amount=PICTURES,
        unit="picture",
    )


def update(of: step.Size) -> Program:
    """AdamW's update of what the stage trains, with clipping."""
    system = Janus(of.model, dtype=KIND, remat=step.REMAT)
    boxes = tree.flatten(init_shapes(system))
    rules = match_rules(step.STAGE, list(boxes))
    trained = {path: rule for path, rule in rules.items() if not rule.frozen}
    leaves = {path: kinds.leaf(path, boxes[path], rule) for path, rule in trained.items()}
    optimizer = GroupedOptimizer(step.STAGE, trained, leaves)
    shapes = tree.unflatten({path: nn.unbox(boxes[path]) for path in trained})
    numbers = size_of(shapes) / 4

    def make() -> tuple:
        params = random_like(shapes)
        return params, optimizer.init(params), random_like(shapes)

    def fn(params, state, grads):
        return optimizer.update(grads, state, params, jnp.bool_(True))

    return Program(
        f"AdamW, {numbers / 1e6:.0f}M parameters",
        fn,
        make,
        flops=0.0,
        moved=MOVED_OF_A_PARAMETER * numbers,
        amount=numbers,
        unit="parameter",
        carried=2,
    )


def programs(small: bool = False) -> list[Program]:
    """In the order in which they matter."""
    of = step.size(small)
    text, codes = of.model.text.vocab_size, of.model.vq.num_embeddings
    if small:
        config = {"kl_test": AUTOENCODERS["kl_test"]}
        return [head(of, "text", text, 64), *image_tokenizers(of, config)[2:3], update(of)]
    heads = [head(of, "text", text, chunk) for chunk in CHUNKS]
    heads += [head(of, "image", codes, chunk) for chunk in CHUNKS]
    configs = {name: AUTOENCODERS[name] for name in ("transfusion_vae", "sd_vae")}
    configs |= {"dc_ae_f32c32": DC_AUTOENCODERS["dc_ae_f32c32"]}
    return [*heads[:2], update(of), *image_tokenizers(of, configs), *heads[2:]]


def run(asked: Asked) -> None:
    measure_all(programs(asked.small), asked)
