"""Trains the small encoders of the demo and writes them beside this file.

    python assets/weights/make.py --runs runs          # about three hours on two cores; it resumes

For each: `NAME.safetensors` (float16), `NAME.config.json` (the resolved config that made it) and
`NAME.metrics.jsonl` (its training log).
"""

import argparse
import json
import pathlib

import jax.numpy as jnp

from unijax.core.files import atomic_file
from unijax.main.config import load
from unijax.main.run import resolve
from unijax.main.train import train
from unijax.train.checkpoint import read_params, read_run
from unijax.train.weights import save_weights

HERE = pathlib.Path(__file__).parent
CONFIGS = HERE.parent.parent / "configs"
# name: the group of the run that is kept, and its name in the systems that use it
KEPT = {
    "vq_demo": ("generator", "vqmodel"),
    "siglip_demo": ("vision_model", "vision_model"),
    "kl_demo": ("generator", "autoencoder"),
}


def main() -> None:
    """Trains what is not trained yet, then writes."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=pathlib.Path, default=pathlib.Path("runs"))
    parser.add_argument("--only", choices=KEPT, help="one of them")
    args = parser.parse_args()
    for name, (group, called) in KEPT.items():
        if args.only in (None, name):
            run_dir = args.runs / name
            train(resolve(load(str(CONFIGS / f"{name}.py"))), run_dir)
            params = {called: read_params(run_dir)[group]}
            save_weights(HERE / f"{name}.safetensors", params, jnp.float16)
            with atomic_file(HERE / f"{name}.config.json") as temporary:
                temporary.write_text(json.dumps(read_run(run_dir)["config"], indent=1) + "\n")
            with atomic_file(HERE / f"{name}.metrics.jsonl") as temporary:
                temporary.write_text((run_dir / "metrics.jsonl").read_text())


if __name__ == "__main__":
    main()
