"""Sana in diffusers and here, side by side on this machine, in float32.

    python -m bench.sana                          # at published width, by the size of the picture
    python -m bench.sana --layers 1 --sizes 8 16 --rounds 2

The width is that of Sana 0.6B, with as many layers as fit an hour; both have the same weights and
have to agree before anything is timed. Prints tables for docs/benchmarks.md: a forward pass, and a
guided drawing of a few steps by the same DPM-Solver. Seconds for each position show what linear
attention costs by the size of the picture. Ratios are taken round by round.
"""

import argparse
import dataclasses
import os
import pathlib
import tempfile
import time
from collections.abc import Callable

os.environ.setdefault("JAX_PLATFORMS", "cpu")

import diffusers
import jax
import jax.numpy as jnp
import numpy as np
import torch

from bench.janus_report import Spread, machine, ratio, table
from unijax.interop import diffusers_parts
from unijax.interop.diffusers_configs import config_json
from unijax.interop.diffusers_scheduler import scheduler_json
from unijax.models.sana import SIZES, Sana
from unijax.ops.diffusion import FLOW, NoiseSchedule, denoise, make_sampler

QUERIES = 64
STEPS = 4
GUIDANCE = 3.0


def timed(contenders: dict[str, Callable], rounds: int) -> dict[str, list[float]]:
    """Seconds of each, in turns; each has run before."""
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(rounds):
        for name, run in contenders.items():
            begun = time.perf_counter()
            run()
            seconds[name].append(time.perf_counter() - begun)
    return seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--sizes", type=int, nargs="+", default=[16, 32, 64])
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    torch.set_num_threads(os.cpu_count() or 1)
    config = dataclasses.replace(SIZES["sana_600m"], num_layers=options.layers)
    torch.manual_seed(0)
    theirs = diffusers.SanaTransformer2DModel.from_config(config_json(config)).eval()
    with tempfile.TemporaryDirectory() as folder:
        theirs.save_pretrained(pathlib.Path(folder) / "sana")
        _, params = diffusers_parts.read(pathlib.Path(folder) / "sana")
    params = {"params": jax.tree.map(jnp.asarray, params)}
    forward = jax.jit(Sana(config).apply)
    sampler = make_sampler("dpm_solver", NoiseSchedule("flow", shift=3.0), STEPS,
                           prediction_type=FLOW)  # fmt: skip
    values = scheduler_json(sampler)
    rng = np.random.default_rng(0)
    context = rng.standard_normal((2, QUERIES, config.caption_channels), np.float32)

    @jax.jit
    def draw(noise):
        def predict(x, timestep, kept):
            both = jnp.broadcast_to(timestep, 2)
            out = forward(params, jnp.concatenate([x, x]), both, context)
            return out[1:] + GUIDANCE * (out[:1] - out[1:]), kept

        return denoise(sampler, noise, predict)

    lines = []
    for size in options.sizes:
        x = rng.standard_normal((1, size, size, config.in_channels), np.float32)
        first = torch.from_numpy(np.moveaxis(x, -1, 1).copy())
        shown, told = torch.from_numpy(context), torch.tensor([741.0, 741.0])

        def their_forward(first=first, shown=shown, told=told):
            with torch.no_grad():
                return theirs(first, shown[:1], told[:1]).sample

        def their_draw(first=first, shown=shown):
            scheduler = diffusers.DPMSolverMultistepScheduler.from_config(values)
            scheduler.set_timesteps(STEPS)
            drawn = first
            with torch.no_grad():
                for at in scheduler.timesteps:
                    out = theirs(torch.cat([drawn, drawn]), shown, at.float().expand(2)).sample
                    guided = out[1:] + GUIDANCE * (out[:1] - out[1:])
                    drawn = scheduler.step(guided, at, drawn).prev_sample
            return drawn

        def our_forward(x=x):
            return jax.block_until_ready(forward(params, x, jnp.float32([741.0]), context[:1]))

        def our_draw(x=x):
            return jax.block_until_ready(draw(x))

        for what, other, own in (
            ("forward", their_forward, our_forward),
            (f"{STEPS} guided steps", their_draw, our_draw),
        ):
            want = np.moveaxis(other().numpy(), 1, -1)
            off = np.abs(np.asarray(own()) - want).max() / np.abs(want).max()
            assert off < 1e-4, (size, what, off)
            seconds = timed({"diffusers": other, "here": own}, options.rounds)
            spreads = [Spread.of(seconds[name]) for name in ("diffusers", "here")]
            times = ratio(seconds["diffusers"], seconds["here"]).text(2)
            each = 1e6 * np.median(seconds["here"]) / size**2
            lines.append(
                (f"{size} x {size}", what, *(s.text(3) for s in spreads), f"**{times}**",
                 f"{each:,.0f}", f"{off:.0e}")
            )  # fmt: skip
            print(*lines[-1], flush=True)
    titles = ("latents", "", "diffusers, s", "here, s", "ratio", "us a position", "off by")
    print(machine())
    print(f"{options.layers} layers of width {config.width}, {QUERIES} queries.")
    print(table(titles, lines))


if __name__ == "__main__":
    main()
