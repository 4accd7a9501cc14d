"""unijax's side: `python -m bench.janus_ours CASE FOLDER SECTION`, asked by bench/janus.py."""

import json
import logging
import os
import pathlib
import sys
import time

os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax
import jax.numpy as jnp
import numpy as np

from bench.janus_case import CASES, STAGE, TEMPLATE, Case, dense_batch, run_config
from bench.janus_contender import serve
from unijax.core.batch import PackedBatch
from unijax.data import tokenizer as tokenizers
from unijax.data.templates import TEMPLATES
from unijax.main.train import cached_tables, rows
from unijax.parallel.sharding import MeshConfig, make_mesh
from unijax.sample.image import show
from unijax.sample.logits import GREEDY
from unijax.sample.sampler import Sampler
from unijax.systems.janus import Janus
from unijax.train import setup
from unijax.train.checkpoint import read_params


class Training:
    """Optimizer steps from the parameters on disk."""

    def __init__(self, case: Case, folder: pathlib.Path):
        self.system = Janus(case.model)
        mesh = make_mesh(MeshConfig())
        self._trainer = setup.build(self.system, STAGE, mesh, "data", jnp.float32, seed=0)
        self.params = read_params(folder / "run", self._trainer.abstract)
        self._state = None

    def step(self, batch: PackedBatch) -> float:
        """The loss before the update."""
        if self._state is None:
            self._state = self._trainer.begin(self.params)  # consumes them
        self._state, metrics = self._trainer.train_step(self._state, self._trainer.put(batch))
        total, weight = metrics["loss"]
        return float(total) / float(weight)


def dense(case: Case, folder: pathlib.Path) -> dict:
    """Tasks: a step on the dense batch; its matrix products alone."""
    training = Training(case, folder)
    batch = dense_batch(case, tokenizers.load(folder / "run" / "tokenizer").special)
    programs = []

    def step() -> dict:
        began = time.perf_counter()
        loss = training.step(batch)
        return {"seconds": time.perf_counter() - began, "losses": [loss]}

    def products() -> dict:
        if not programs:
            programs.extend(_products(json.loads((folder / "products.json").read_text())))
        began = time.perf_counter()
        for program, x, y, times in programs:
            for _ in range(times):
                out = program(x, y)
            out.block_until_ready()
        return {"seconds": time.perf_counter() - began}

    return {"step": step, "products": products}


def _products(shapes: list[list[int]]):
    """A compiled product of each shape, its operands, and how often it occurs."""
    rng = np.random.default_rng(0)
    for b, m, k, n, times in shapes:
        x, y = (jnp.asarray(rng.standard_normal((b, *s), np.float32)) for s in ((m, k), (k, n)))
        if b == 1:
            x, y = x[0], y[0]
        program = jax.jit(jnp.matmul).lower(x, y).compile()
        program(x, y).block_until_ready()
        yield program, x, y, times


def recipe(case: Case, folder: pathlib.Path, cache_frozen: bool) -> dict:
    """Task: steps of the recipe, as `unijax train` takes them."""
    training = Training(case, folder)
    tokenizer = tokenizers.load(folder / "run" / "tokenizer")
    run = run_config(case, cache_frozen)
    began = time.perf_counter()
    tables = None
    if cache_frozen:
        cache = folder / "cache"
        tables = cached_tables(run, training.system, training.params, tokenizer, cache)
    share = {"process_index": 0, "process_count": 1}
    loader, _ = rows(run, training.system, tokenizer, tables, share)
    ahead = time.perf_counter() - began

    def steps(count: int) -> dict:
        losses, documents, filled = [], 0, 0.0
        began = time.perf_counter()
        for _ in range(count):
            batch = next(loader)
            losses.append(training.step(batch))
            documents += int(batch.segment.max(axis=1).sum())
            filled += float((batch.segment > 0).mean()) / count
        seconds = time.perf_counter() - began
        return {"seconds": seconds, "losses": losses, "documents": documents,
                "padding": 1 - filled, "ahead": ahead}  # fmt: skip

    return {"steps": steps}


def draw(case: Case, folder: pathlib.Path) -> dict:
    """Task: greedy pictures of the first prompts, with guidance 5."""
    system, params = Janus(case.model), read_params(folder / "run")
    tokenizer = tokenizers.load(folder / "run" / "tokenizer")
    sampler = Sampler(system, params, tokenizer, TEMPLATES[TEMPLATE])
    words = json.loads((folder / "prompts.json").read_text())["words"]
    vq = {"vqmodel": params["vqmodel"]}

    def pictures(count: int) -> dict:
        began = time.perf_counter()
        codes = sampler.made(words[:count], guidance=5.0, sampling=GREEDY)[:, 0]
        drawn = time.perf_counter()
        np.asarray(show(system, vq, codes))
        return {"seconds": drawn - began, "codes": codes.tolist(),
                "pixels_seconds": time.perf_counter() - drawn}  # fmt: skip

    return {"pictures": pictures}


def main() -> None:
    logging.getLogger("absl").setLevel(logging.ERROR)
    name, folder, section = sys.argv[1:]
    case, folder = CASES[name], pathlib.Path(folder)
    if section == "dense":
        tasks = dense(case, folder)
    elif section == "draw":
        tasks = draw(case, folder)
    else:
        tasks = recipe(case, folder, cache_frozen=section == "recipe-cached")
    serve(tasks)


if __name__ == "__main__":
    main()
