"""Questions of MetaQuery's paper asked of a small one: how many queries, which connector.

    unijax train --config configs/metaquery_ablation.py:queries_64 --run-dir runs/q64_0
    unijax train --config configs/metaquery_ablation.py:queries_64 --run-dir runs/q64_1 seed=1

Reproduces nothing published: the tables of arXiv 2504.06256, section 4, asked of
configs/metaquery_demo.py with 600 steps. `queries_16`, `queries_64`, `queries_256`; `proj_enc`: 16
queries and blocks behind the projection, as many parameters as before it.
"""

import pathlib

from ml_collections import ConfigDict

from unijax.main.config import load

VARIANTS = ("queries_16", "queries_64", "queries_256", "proj_enc")
FRAME = 16  # ids of a name and its turns, about


def get_config(arg: str = "queries_16") -> ConfigDict:
    """`arg` is one of `VARIANTS`."""
    if arg not in VARIANTS:
        raise ValueError(f"one of {VARIANTS}")
    config = load(str(pathlib.Path(__file__).with_name("metaquery_demo.py"))).unlock()
    config.reproduces = f"nothing: {arg} of the questions in docs/metaquery.md"
    if arg == "proj_enc":
        config.model.connector.order = "proj_enc"
    else:
        config.model.queries = int(arg.partition("_")[2])
        # A row holds as many pictures as before: what a step learns from stays the same.
        config.data.row_length = 16 * (config.model.queries + FRAME)
    config.stage.steps = 600
    config.loop.eval_every, config.loop.save_every = 600, 600
    return config.lock()
