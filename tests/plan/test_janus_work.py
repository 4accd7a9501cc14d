"""FLOPs by part: those that the loop reports, and those that the program has."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.systems.test_janus import DATA, GEN, SYSTEM, UND, Document, TextSpan, batch_of, size
from tests.walk import product_flops
from unijax.core import tree
from unijax.data.config import GroupConfig, SourceConfig
from unijax.plan.janus_work import TEXT, Rows, janus_work
from unijax.systems.janus import Janus
from unijax.train.stage import OptimizerConfig, Rule, StageConfig, match_rules
from unijax.train.step import training_flops

DOCUMENTS = [
    Document("read", (UND[0], TextSpan(tuple(range(7, 13)), (1.0, 0.0) * 3))),
    Document("write", (TextSpan((20, 21), (0.0, 0.0)), GEN[1])),
    Document("text", (TextSpan(tuple(range(7, 27)), (1.0,) * 20),)),
]
ENCODERS_FROZEN = (Rule("vision_model/", frozen=True), Rule("vqmodel/", frozen=True), Rule(""))


def boxed():
    return jax.eval_shape(lambda: SYSTEM.init(jax.random.key(0)))


def rules(*given: Rule) -> dict[str, Rule]:
    shapes = boxed()
    stage = StageConfig("s", 1, given, {"main": OptimizerConfig(1e-3)})
    return match_rules(stage, list(tree.flatten(shapes)))


def rows_of(batch) -> Rows:
    """What a batch truly holds."""
    lengths = [size(d) for d in DOCUMENTS]
    target = np.asarray(batch.target_kind)[np.asarray(batch.weight) > 0]
    return Rows(
        rows=DATA.rows, length=DATA.row_length, slots={"und": 9, "gen": 9},
        encoded=frozenset({"und", "gen"}), tokens=float(sum(lengths)),
        pairs=sum(n * (n + 1) / 2 for n in lengths), images={"und": 1.0, "gen": 1.0},
        text_targets=float((target == 1).sum()), code_targets=float((target == 2).sum()),
    )  # fmt: skip


def test_true_flops_are_those_that_the_loop_reports():
    batch = batch_of([DOCUMENTS[:2], DOCUMENTS[2:]])
    decoder_frozen = Rule("language_model/", frozen=True), *ENCODERS_FROZEN
    for given in (ENCODERS_FROZEN, (Rule("vqmodel/", frozen=True), Rule("")), decoder_frozen):
        table = rules(*given)
        found = janus_work(SYSTEM.config, table, "none", rows_of(batch))
        want = float(training_flops(SYSTEM, batch, table))
        assert found.true == pytest.approx(want, rel=1e-6)


@pytest.mark.parametrize("remat", ["none", "full"])
def test_executed_flops_of_the_decoder_are_those_of_the_program(remat):
    """Two decoders that differ in the width of their MLP alone: the difference is its products."""
    batch = batch_of([DOCUMENTS[:2], DOCUMENTS[2:]])
    trained = ("language_model", "aligner", "generation_aligner", "generation_head")
    more = dataclasses.replace(SYSTEM.config.text, intermediate_size=96)
    systems = SYSTEM, Janus(dataclasses.replace(SYSTEM.config, text=more))
    found, want = [], []
    for system in systems:
        table = rules(*ENCODERS_FROZEN)
        one = janus_work(system.config, table, remat, rows_of(batch))
        want.append(one.parts["decoder"].executed)
        found.append(_of(system, remat, trained, batch))
    assert found[1] - found[0] == want[1] - want[0] > 0


def _of(system: Janus, remat: str, trained: tuple[str, ...], batch) -> int:
    system = dataclasses.replace(system, remat=remat)
    boxed = jax.eval_shape(lambda: system.init(jax.random.key(0)))
    flat = {p: x.value for p, x in tree.flatten(boxed).items()}
    params = tree.unflatten({p: jnp.zeros(x.shape, x.dtype) for p, x in flat.items()})
    frozen = frozenset(p for p in flat if p.split("/")[0] not in trained)

    def loss(some):
        sums, _ = system.loss(params | some, batch, jax.random.key(0), jnp.zeros((), int), frozen)
        return sums["text"] + sums["code"]

    return product_flops(jax.make_jaxpr(jax.grad(loss))({t: params[t] for t in trained}).jaxpr)


def mixture(**ratios: float):
    groups = []
    for name, ratio in ratios.items():
        task = {"und": "describe", "text": "text", "gen": "generate"}[name]
        source = SourceConfig(name=name, task=task, kind="jsonl", path="x")
        groups.append(GroupConfig(name, ratio, (source,)))
    return dataclasses.replace(DATA, groups=tuple(groups), row_length=4096)


def test_expected_rows_are_full_where_slots_suffice():
    rows = Rows.expected(mixture(und=1.0, text=3.0, gen=0.5), cached=False)
    assert rows.tokens == pytest.approx(rows.rows * 4096)
    texts = rows.images["und"] * 3
    assert rows.text_targets == pytest.approx(rows.images["und"] * TEXT["und"][1] + texts * 640)
    assert rows.code_targets == pytest.approx(rows.images["gen"] * 4)


def test_expected_rows_have_no_more_images_than_slots():
    rows = Rows.expected(mixture(gen=1.0), cached=True)
    assert rows.images["gen"] == rows.rows * 9
    assert rows.tokens < rows.rows * 4096
    assert rows.encoded == frozenset()


def test_idle_parameters_are_those_that_the_loss_does_not_read():
    batch = batch_of([DOCUMENTS[:2], DOCUMENTS[2:]])
    work = janus_work(SYSTEM.config, rules(*ENCODERS_FROZEN), "none", rows_of(batch))
    shapes = {p: x.value for p, x in tree.flatten(boxed()).items()}

    @jax.jit
    def loss(params):
        sums, _ = SYSTEM.loss(params, batch, jax.random.key(0), jnp.zeros((), int), frozenset())
        return sums["text"] + sums["code"]

    def params(is_other) -> dict:
        """Random ones; others where it says so."""
        values = {}
        for path, x in shapes.items():
            rng = np.random.default_rng([is_other(path), *path.encode()])
            values[path] = jnp.asarray(rng.normal(size=x.shape, scale=0.3), x.dtype)
        return tree.unflatten(values)

    idle = lambda path: path.startswith(work.idle)  # noqa: E731
    before = loss(params(lambda path: False))
    assert loss(params(idle)) == before
    for group in {path.split("/")[0] for path in shapes}:
        others = params(lambda path: path.startswith(group + "/") and not idle(path))  # noqa: B023
        assert loss(others) != before, group


def test_cached_encoders_are_idle_and_frozen_ones_run_once():
    table = rules(*ENCODERS_FROZEN)
    batch = batch_of([DOCUMENTS[:2], DOCUMENTS[2:]])
    here = janus_work(SYSTEM.config, table, "none", rows_of(batch))
    assert set(here.forward_only) == {"vision_model", "vqmodel"}
    assert not {"vision_model", "vqmodel"} & set(here.idle)
    cached = dataclasses.replace(rows_of(batch), encoded=frozenset())
    assert {"vision_model", "vqmodel"} <= set(janus_work(SYSTEM.config, table, "none", cached).idle)
    trains = rules(Rule("vqmodel/", frozen=True), Rule(""))
    work = janus_work(SYSTEM.config, trains, "none", rows_of(batch))
    assert work.forward_only == ("vqmodel",)
