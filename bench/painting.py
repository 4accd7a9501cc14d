"""The U-Net and its sampling loop beside diffusers, in turns, fp32, a process for each contender.

    python -m bench.painting                      # Stable Diffusion 1.5's widths: long
    python -m bench.painting --size unet_test --rounds 1

Random weights are written once as a directory of diffusers, which both read. Both are given the
same noise and the same condition of 77 vectors; what they make of it has to agree: of one forward
pass, and of `--steps` PNDM steps with guidance.
"""

import argparse
import json
import pathlib
import subprocess
import sys
import tempfile
import time

import numpy as np

from bench.janus_report import Spread, machine, ratio, table

GUIDANCE = 7.5
TOKENS = 77
SCHEDULE = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}
FLAGS = {"skip_prk_steps": True, "steps_offset": 1}


def inputs(config) -> tuple[np.ndarray, np.ndarray]:
    """Noise, channels last, and a condition."""
    rng = np.random.default_rng(0)
    side = config.sample_size
    x = rng.standard_normal((1, side, side, config.in_channels), np.float32)
    return x, rng.standard_normal((1, TOKENS, config.cross_attention_dim), np.float32)


def write(folder: pathlib.Path, size: str) -> None:
    """Random weights in diffusers' form."""
    import torch
    from diffusers import UNet2DConditionModel

    from unijax.interop.diffusers_configs import config_json
    from unijax.models.unet import SIZES

    torch.manual_seed(0)
    UNet2DConditionModel.from_config(config_json(SIZES[size])).save_pretrained(folder)


def theirs(folder: pathlib.Path, steps: int):
    """(forward, sampling), each a function without arguments that gives an array."""
    import torch
    from diffusers import PNDMScheduler, UNet2DConditionModel

    from unijax.interop.diffusers_configs import read_config

    unet = UNet2DConditionModel.from_pretrained(folder).eval()
    x, condition = inputs(read_config(folder))
    x = torch.from_numpy(np.moveaxis(x, -1, 1).copy())
    condition = torch.from_numpy(condition)
    both = torch.cat([condition, torch.zeros_like(condition)])
    last = lambda y: y.movedim(1, -1).numpy()  # noqa: E731

    @torch.no_grad()
    def forward():
        return last(unet(x, torch.tensor([500.0]), condition).sample)

    @torch.no_grad()
    def sampling():
        scheduler = PNDMScheduler(**SCHEDULE, **FLAGS)
        scheduler.set_timesteps(steps)
        y = x
        for t in scheduler.timesteps:
            said, nothing = unet(torch.cat([y, y]), t, both).sample.chunk(2)
            y = scheduler.step(nothing + GUIDANCE * (said - nothing), t, y).prev_sample
        return last(y)

    return forward, sampling


def ours(folder: pathlib.Path, steps: int):
    """As `theirs`."""
    import jax
    import jax.numpy as jnp

    from unijax.interop import diffusers_parts
    from unijax.models.unet import UNet
    from unijax.ops.diffusion import NoiseSchedule, denoise, make_sampler

    config, params = diffusers_parts.read(folder)
    unet, params = UNet(config), jax.device_put(params)
    x, condition = map(jnp.asarray, inputs(config))
    both = jnp.concatenate([condition, jnp.zeros_like(condition)])
    schedule = NoiseSchedule("scaled_linear", 1000, 0.00085, 0.012)
    sampler = make_sampler("pndm", schedule, steps, **FLAGS)
    apply = lambda p, *given: unet.apply({"params": p}, *given)  # noqa: E731
    step = jax.jit(apply)

    @jax.jit
    def draw(params):
        def predict(y, timestep, kept):
            told = jnp.broadcast_to(timestep, 2)
            said, nothing = jnp.split(apply(params, jnp.concatenate([y, y]), told, both), 2)
            return nothing + GUIDANCE * (said - nothing), kept

        return denoise(sampler, x, predict)

    forward = lambda: np.asarray(step(params, x, jnp.full(1, 500.0), condition))  # noqa: E731
    return forward, lambda: np.asarray(draw(params))


def measure(side: str, folder: pathlib.Path, steps: int) -> None:
    """In a process of its own: prints seconds, and saves what came out."""
    found = {}
    runs = {"ours": ours, "theirs": theirs}[side](folder, steps)
    for name, run in zip(("forward", "sampling"), runs):
        np.save(folder / f"{side}_{name}.npy", run())  # the first compiles
        begun = time.perf_counter()
        run()
        found[name] = time.perf_counter() - begun
    print(json.dumps(found))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", default="sd15_unet")
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--side", choices=("ours", "theirs"))
    parser.add_argument("--folder", type=pathlib.Path)
    options = parser.parse_args()
    if options.side:
        measure(options.side, options.folder, options.steps)
        return
    with tempfile.TemporaryDirectory() as place:
        folder = pathlib.Path(place) / "unet"
        write(folder, options.size)
        seconds: dict[str, dict[str, list[float]]] = {"ours": {}, "theirs": {}}
        for _ in range(options.rounds):
            for side in seconds:
                command = [
                    sys.executable, "-m", "bench.painting", "--side", side, "--folder",
                    str(folder), "--steps", str(options.steps),
                ]  # fmt: skip
                out = subprocess.run(command, check=True, capture_output=True, text=True).stdout
                for name, value in json.loads(out.splitlines()[-1]).items():
                    seconds[side].setdefault(name, []).append(value)
        lines = []
        for name in ("forward", "sampling"):
            a, b = (np.load(folder / f"{side}_{name}.npy") for side in ("ours", "theirs"))
            off = np.abs(a - b).max() / np.abs(b).max()
            assert off < 1e-3, (name, off)
            mine, other = (seconds[side][name] for side in ("ours", "theirs"))
            times = ratio(other, mine).text(2)
            row = (name, Spread.of(other).text(2), Spread.of(mine).text(2), f"**{times}**")
            lines.append((*row, f"{off:.0e}"))
        print(machine())
        titles = ("", "diffusers, s", "unijax, s", "diffusers / unijax", "off by")
        print(table(titles, lines))


if __name__ == "__main__":
    main()
