"""Denoising inside the row: the prompt's keys kept, beside the whole row worked at every step.

    python -m bench.denoising                     # prompts of 64 to 1024 tokens
    python -m bench.denoising --lengths 256 --rounds 3

Both draw one picture with guidance, from the same weights and the same noise, in float32; they have
to agree before anything is timed. Prints a table for docs/benchmarks.md; ratios are taken round by
round.
"""

import argparse
import functools
import time

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from bench.janus_report import Spread, machine, ratio, table
from unijax.core.batch import Kind, PackedBatch
from unijax.core.vocab import SpecialIds
from unijax.data.document import Document, TextSpan
from unijax.models.autoencoder import AutoencoderConfig
from unijax.models.latent_patches import LatentPatchesConfig
from unijax.models.llama import LlamaConfig
from unijax.ops.attention import packed_intervals
from unijax.ops.diffusion import draw_noise
from unijax.sample.in_place import draw_latents
from unijax.sample.logits import guide
from unijax.sample.prompts import Prompting, up_to_image
from unijax.systems.transfusion import Transfusion, TransfusionConfig

SPECIAL = SpecialIds(eos=2, bos=1, pad=0, boi=3, eoi=4)
STEPS = 25
GUIDANCE = 3.0


def system() -> Transfusion:
    """A decoder of 25M parameters, pictures of 256 tokens as in the paper."""
    text = LlamaConfig(8192, 512, 1408, 8, 8, 8, 64, 1e-5)
    autoencoder = AutoencoderConfig(256, 8, (32, 32, 32, 32), 1, scaling_factor=1.0)
    return Transfusion(
        TransfusionConfig(text, autoencoder, LatentPatchesConfig(), sampler="ddim", steps=STEPS)
    )


@functools.partial(jax.jit, static_argnames=("system", "steps"))
def whole_rows(
    system: Transfusion,
    params: dict,
    prompt: PackedBatch,
    length: jax.Array,
    seeds: jax.Array,
    guidance: jax.Array,
    steps: int,
) -> jax.Array:
    """As `draw_latents`, without a cache: prompt and picture are worked at every step."""
    width, n = prompt.tokens.shape[1], system.maker.tokens
    rows = len(length)
    start, sampler = width - length, system.sampler_of(steps)
    at = jnp.arange(width + n)
    position = jnp.maximum(at - start[:, None], 0).astype(jnp.int32)
    pad = lambda x, value: jnp.pad(x, ((0, 0), (0, n)), constant_values=value)  # noqa: E731
    document = jnp.broadcast_to(at >= start[:, None], position.shape).astype(jnp.int32)
    seen = packed_intervals(
        document, pad(prompt.kind, int(Kind.GEN)), pad(prompt.image, 1), system.sees_whole
    )
    words = system.embed(params, prompt)

    def call(_, state):
        x, timestep = sampler.model_input(state)
        told = jnp.broadcast_to(timestep, rows)
        inputs, kept = system.embed_latents(params, jnp.concatenate([x, x]), told)
        inputs = jnp.concatenate([words, inputs], axis=1)
        p = {"params": params["language_model"]}
        hidden, _ = system.language_model.apply(p, inputs, position, *seen)
        out = system.predict_noise(params, hidden[:, width:], kept, told)
        return sampler.step(state, guide(*jnp.split(out, 2), guidance), None)

    begun = sampler.init(draw_noise(seeds, system.maker.shape))
    return jax.lax.fori_loop(0, sampler.calls, call, begun).sample


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--lengths", type=int, nargs="+", default=[64, 256, 1024])
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    model = system()
    params = jax.jit(lambda key: nn.unbox(model.init(key)))(jax.random.key(0))
    decoding = model.for_decoding(params)
    prompting = Prompting(model.layout, SPECIAL)
    seeds, scale = np.zeros(1, np.uint32), jnp.float32(GUIDANCE)
    lines = []
    for length in options.lengths:
        ids = tuple(5 + i % 1000 for i in range(length))
        prompt = Document("p", (TextSpan(ids, (0.0,) * length),))
        both = [up_to_image(d, "gen", model.layout, SPECIAL) for d in (prompt, Document("u", ()))]
        batch = prompting.batch(both)
        contenders = {
            "kept": lambda b=batch: draw_latents(model, decoding, *b, seeds, scale, STEPS),
            "again": lambda b=batch: whole_rows(model, params, *b, seeds, scale, STEPS),
        }
        first = {name: np.asarray(run()) for name, run in contenders.items()}
        off = np.abs(first["kept"] - first["again"]).max() / np.abs(first["again"]).max()
        assert off < 1e-4, off
        seconds: dict[str, list[float]] = {name: [] for name in contenders}
        for _ in range(options.rounds):
            for name, run in contenders.items():
                begun = time.perf_counter()
                jax.block_until_ready(run())
                seconds[name].append(time.perf_counter() - begun)
        kept, again = (Spread.of(seconds[name]) for name in ("kept", "again"))
        times = ratio(seconds["again"], seconds["kept"]).text(2)
        lines.append((f"{length}", again.text(2), kept.text(2), f"**{times}**", f"{off:.0e}"))
        print(*lines[-1], flush=True)
    titles = ("tokens of the prompt", "whole row, s", "prompt kept, s", "ratio", "off by")
    print(machine())
    print(table(titles, lines))


if __name__ == "__main__":
    main()
