"""Adapters: what every decoder must do with them, what trains, how they are folded and kept."""

import dataclasses
import functools
import math
import shutil

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from tests.long import MARKS, long
from tests.main import tiny
from tests.models.test_llama import documents, forward, from_transformers, llama, ours, pack
from tests.systems.decoder_suite import DecoderSuite
from tests.systems.small import ADAM, SmallRows
from tests.systems.test_janus import SYSTEM
from tests.walk import all_equations
from unijax.core import tree
from unijax.core.errors import UserError
from unijax.core.system import init_shapes
from unijax.main.run import resolve
from unijax.main.train import train
from unijax.models.llama import SIZES, Llama
from unijax.models.vqgan import SIZES as VQ_SIZES
from unijax.nn.stack import unstack
from unijax.parallel.sharding import MeshConfig, make_mesh
from unijax.systems.chameleon import Chameleon, ChameleonConfig
from unijax.systems.janus import RECIPE
from unijax.train import lora, setup
from unijax.train.checkpoint import read_params
from unijax.train.flops import training_flops
from unijax.train.stage import LoraRule, Rule, StageConfig
from unijax.train.streaming import StoredParams

LORA = (
    LoraRule("language_model/layers/self_attn/[qv]_proj$", rank=3, alpha=6.0),
    LoraRule("language_model/layers/mlp/", rank=2, alpha=1.0),
    LoraRule("vision_model/encoder/layers/self_attn/", rank=2, alpha=2.0),
    LoraRule("(aligner|generation_head)/", rank=2, alpha=2.0),
)
ALONE = (Rule(".*/lora_[ab]$"), Rule("", frozen=True))


@dataclasses.dataclass(frozen=True)
class SmallAdapted(SmallRows):
    """Only its adapters train."""

    @functools.cached_property
    def params(self):
        rng, found = np.random.default_rng(1), {}
        for path, x in tree.flatten(super().params).items():
            if path.endswith(("lora_a", "lora_b")):
                x = jnp.asarray(rng.standard_normal(x.shape, np.float32)) * x.shape[-2] ** -0.5
            found[path] = x
        return tree.unflatten(found)

    @property
    def params_by_path(self):
        return tree.flatten(self.params)

    @property
    def stage(self):
        return StageConfig("stage", 10, ALONE, {"main": ADAM}, lora=self.system.lora)


class Adapted(DecoderSuite):
    """Adapters of decoder, tower, adaptor and image head."""

    small = SmallAdapted(lora.adapted(SYSTEM, LORA), rules=(Rule("vqmodel/", frozen=True),))
    recipe = RECIPE
    examples = 5
    edges = 0.03


SMALL = Adapted.small


@pytest.mark.parametrize(
    "name",
    [
        "test_it_is_registered",
        "test_every_parameter_has_axes_that_every_table_places",
        "test_costs_and_lookups_name_parameters",
        pytest.param(
            "test_a_document_does_not_depend_on_what_it_was_packed_with_nor_where", marks=MARKS
        ),
        pytest.param("test_rows_worked_in_parts_give_the_sums_and_gradients_of_all", marks=MARKS),
        "test_flops_are_those_of_the_program",
        pytest.param("test_greedy_answers_are_those_of_teacher_forcing", marks=MARKS),
        pytest.param("test_over_eight_devices_equals_one", marks=MARKS),
    ],
)
def test_what_every_decoder_must_do(name):
    getattr(Adapted(), name)()


# Values


def with_adapters(theirs: torch.nn.Module, scale: float) -> dict[str, dict[str, np.ndarray]]:
    """Puts one behind the linear layers of each of their layers; returns A and B by our names."""
    found = {}
    for i, layer in enumerate(theirs.model.layers):
        for name in ("self_attn.q_proj", "self_attn.o_proj", "mlp.down_proj"):
            linear = layer.get_submodule(name)
            a, b = torch.randn(3, linear.in_features), torch.randn(linear.out_features, 3) * 0.3
            linear.register_forward_hook(
                lambda _, inputs, y, a=a, b=b: y + scale * inputs[0] @ a.T @ b.T
            )
            path = "layers/" + name.replace(".", "/")
            found.setdefault(f"{path}/lora_a", {})[i] = a.numpy().T
            found.setdefault(f"{path}/lora_b", {})[i] = b.numpy().T
    return found


def test_adapters_equal_products_behind_the_layers_of_transformers():
    """Beside the kernels and folded into them, layers scanned and apart."""
    torch.manual_seed(0)
    theirs, scale = llama().eval(), 0.5
    flat = tree.flatten(from_transformers(theirs))
    for path, parts in with_adapters(theirs, scale).items():
        flat[path] = jnp.stack([parts[i] for i in range(3)])
        flat[path.rpartition("/")[0] + "/lora_scale"] = jnp.full(3, scale)
    ids = documents([11, 11])
    with torch.no_grad():
        want = np.asarray(theirs.model(torch.tensor(np.stack(ids))).last_hidden_state)
    rows, config = pack([[d] for d in ids], 11), ours(rope_theta=500.0)
    for params, fields in (
        (tree.unflatten(flat), {}),
        (tree.unflatten(flat), {"remat": "full"}),
        (unstack(tree.unflatten(flat), "layers"), {"unrolled": True}),
        (tree.unflatten(lora.folded(flat)), {}),
    ):
        found = forward(Llama(config, **fields), {"params": params}, *rows)
        np.testing.assert_allclose(found, want, rtol=0, atol=1e-5 * np.abs(want).max())
    plain = forward(Llama(config), {"params": lora.without(tree.unflatten(flat))}, *rows)
    assert np.abs(plain - want).max() > 0.1


@long
def test_fresh_adapters_add_nothing_and_hang_on_their_names_alone():
    system = lora.adapted(SYSTEM, LORA)
    key = jax.random.key(3)
    params = tree.flatten(nn.unbox(jax.jit(system.init)(key)))
    plain = tree.flatten(nn.unbox(jax.jit(SYSTEM.init)(key)))
    for path, x in tree.flatten(lora.without(tree.unflatten(params))).items():
        np.testing.assert_allclose(x, plain[path], 1e-6, 1e-8, err_msg=path)  # two programs
    folded = lora.folded(params)
    for path, x in plain.items():
        np.testing.assert_allclose(folded[path], x, 1e-6, 1e-8, err_msg=path)
    fewer = tree.flatten(nn.unbox(lora.adapted(SYSTEM, LORA[1:]).init(key)))
    for path, x in fewer.items():
        np.testing.assert_allclose(x, params[path], 1e-6, 1e-8, err_msg=path)
    up = params["language_model/layers/mlp/up_proj/lora_a"]
    assert up.shape == (2, 32, 2)
    assert 0.8 * 32**-0.5 < np.abs(up).max() <= 32**-0.5
    assert params["language_model/layers/mlp/up_proj/lora_scale"].tolist() == [0.5, 0.5]


# Training


def test_only_adapters_have_state_and_move():
    trainer = SMALL.trainer(SMALL.stage, MeshConfig(), jax.devices()[:1])
    state = SMALL.begin(trainer)
    trained = {p for p, rule in trainer.rules.items() if not rule.frozen}
    assert trained == {p for p in trainer.rules if p.endswith(("lora_a", "lora_b"))}
    numbers = sum(SMALL.params_by_path[p].size for p in trained)
    assert sum(x.size for x in jax.tree.leaves(state.opt_state) if x.ndim) == 2 * numbers
    before = jax.device_get(state)
    batch, losses = trainer.put(SMALL.host_batches()[0]), []
    for _ in range(10):
        state, metrics = trainer.train_step(state, batch)
        losses.append(float(metrics["loss"][0]))
    after = jax.device_get(state)
    jax.tree.map(np.testing.assert_array_equal, after.frozen, before.frozen)
    for path, x in tree.flatten(after.params).items():
        assert not np.array_equal(x, tree.flatten(before.params)[path]), path
    assert losses[-1] < losses[0]


def products_of_a_step(batch) -> list[tuple[tuple[int, ...], int]]:
    """Of a step in which the adapters alone train: shapes, and over how many each is a sum."""
    flat = tree.flatten(SMALL.params)
    adapters = {p: x for p, x in flat.items() if p.endswith(("lora_a", "lora_b"))}
    frozen = frozenset(flat.keys() - adapters.keys())

    def loss(adapters):
        params = tree.unflatten(flat | adapters)
        return sum(SMALL.loss(params, batch, None, frozen)[0].values())

    program = jax.make_jaxpr(jax.grad(loss))(adapters)
    products = [e for e in all_equations(program) if e.primitive.name == "dot_general"]

    def depth(e):
        (contracted, _), _ = e.params["dimension_numbers"]
        return math.prod(e.invars[0].aval.shape[i] for i in contracted)

    return [(e.outvars[0].aval.shape, depth(e)) for e in products]


def test_no_gradient_of_a_base_is_computed():
    """Neither of the adapted kernels nor of those beside them, in a scanned stack."""
    batch = SMALL.batch([[SMALL.documents()["both"]]])
    flat = tree.flatten(SMALL.params)
    widths = {n for p, x in flat.items() if p.endswith("kernel") for n in x.shape}
    # A gradient of a kernel is a sum over positions, of which no width is the number.
    found = {shape for shape, depth in products_of_a_step(batch) if depth not in widths}
    kernels = {
        x.shape[1:] if "/layers/" in p else x.shape
        for p, x in flat.items()
        if p.endswith("kernel") and p.split("/")[0] not in ("vqmodel", "generation_head")
    }
    adapters = {x.shape[-2:] for p, x in flat.items() if p.endswith(("lora_a", "lora_b"))}
    assert not found & (kernels - adapters), found & (kernels - adapters)
    assert found >= {(32, 3), (3, 16), (3, 32), (32, 2), (2, 48)}


def test_flops_of_a_step_are_two_passes_through_the_base_and_three_through_adapters():
    batch = SMALL.batch([[*SMALL.documents().values()][:2]])
    base = {p: Rule("", frozen=True) for p in tree.flatten(init_shapes(SYSTEM))}
    rules = {p: Rule("", frozen=not p.endswith(("lora_a", "lora_b"))) for p in SMALL.params_by_path}
    small = lora.adapted(SYSTEM, LORA[:2])
    rules = {p: rules[p] for p in tree.flatten(init_shapes(small))}
    alone = float(training_flops(small, batch, rules)) - float(training_flops(SYSTEM, batch, base))
    tokens = float(jnp.sum(batch.kind > 0))
    numbers = sum(
        x.size for p, x in SMALL.params_by_path.items() if p in rules and not rules[p].frozen
    )
    assert alone == pytest.approx(3 * 2 * numbers * tokens, rel=1e-3)


def test_emus_adapters_are_as_many_as_published():
    rule = LoraRule("language_model/layers/self_attn/", rank=16, alpha=16.0, dropout=0.05)
    system = Chameleon(ChameleonConfig(SIZES["llama_13b"], VQ_SIZES["vq_test"], first_code=0))
    shapes = init_shapes(lora.adapted(system, (rule,)))
    adapters = {p: x for p, x in tree.flatten(nn.unbox(shapes)).items() if lora.is_adapter(p)}
    assert sum(x.size for p, x in adapters.items() if p.endswith(("_a", "_b"))) == 26_214_400
    names = {p.rsplit("/", 1)[-1] for p in adapters}
    assert names == set(lora.LEAVES)


# Dropout


DROPPED = (LoraRule("language_model/layers/", rank=3, alpha=6.0, dropout=0.4),)


@long
def test_what_is_dropped_of_a_document_does_not_depend_on_its_row():
    class Dropped(DecoderSuite):
        small = SmallAdapted(lora.adapted(SYSTEM, DROPPED), rules=(Rule("vqmodel/", frozen=True),))
        examples = 5

    suite = Dropped()
    suite.test_a_document_does_not_depend_on_what_it_was_packed_with_nor_where()
    suite.test_rows_worked_in_parts_give_the_sums_and_gradients_of_all()
    batch = suite.a_batch()
    loss = jax.jit(functools.partial(suite.small.loss, frozen=frozenset()))
    evaluated, one, other = (
        float(loss(suite.small.params, batch, key)[0]["text"])
        for key in (None, jax.random.key(1), jax.random.key(2))
    )
    assert len({evaluated, one, other}) == 3
    without = {
        p: x for p, x in suite.small.params_by_path.items() if not p.endswith("lora_dropout")
    }
    plain = loss(tree.unflatten(without), batch, jax.random.key(1))[0]["text"]
    assert float(plain) == pytest.approx(evaluated, rel=1e-6)


def test_dropout_in_a_network_without_an_rng_is_refused():
    """It would be passed over."""
    rules = (LoraRule("vision_model/encoder/layers/", rank=2, alpha=2.0, dropout=0.1),)
    small = SmallAdapted(lora.adapted(SYSTEM, rules))
    trainer = small.trainer(small.stage, MeshConfig(), jax.devices()[:1])
    state, batch = small.begin(trainer), trainer.put(small.host_batches()[0])
    with pytest.raises(UserError, match=r"dropout of .*layers/.*, in a network that"):
        trainer.train_step(state, batch)


# Runs


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A base, and adapters trained on it."""
    folder = tmp_path_factory.mktemp("lora")
    base = resolve(
        tiny.get_config(), ["stage.steps=3", "validation.batches=0", "validation.samples=0"]
    )
    train(base, folder / "base")
    stage = dataclasses.replace(
        base.stage, name="lora", steps=6, ema_decay=0.0, rules=ALONE, lora=LORA[:2]
    )
    loop = dataclasses.replace(base.loop, save_frozen=False)
    run = dataclasses.replace(base, stage=stage, loop=loop)
    state = train(run, folder / "lora", init_from=str(folder / "base"))
    return folder, run, state


def test_a_run_of_adapters_begins_from_its_base_and_is_read_folded(runs):
    folder, _, state = runs
    base = tree.flatten(read_params(folder / "base"))
    kept = tree.flatten(jax.device_get(state.frozen)) | tree.flatten(jax.device_get(state.params))
    assert sum(lora.is_adapter(p) for p in kept) == 5 * 3
    for path, x in base.items():
        np.testing.assert_array_equal(kept[path], x, path)
    found, want = tree.flatten(read_params(folder / "lora")), lora.folded(kept)
    assert found.keys() == base.keys()
    for path, x in want.items():
        np.testing.assert_allclose(found[path], x, rtol=1e-6, atol=1e-7, err_msg=path)
    moved = {p for p in base if not np.array_equal(found[p], base[p])}
    names = (
        "self_attn/q_proj",
        "self_attn/v_proj",
        *(f"mlp/{n}_proj" for n in ("gate", "up", "down")),
    )
    assert moved == {f"language_model/layers/{name}/kernel" for name in names}


def test_a_checkpoint_of_adapters_alone_holds_them_alone(runs, tmp_path):
    """And is read to what a whole one is."""
    folder, run, state = runs
    kept = tree.flatten(state.frozen) | tree.flatten(state.params)
    held = StoredParams(folder / "lora").adapters()
    assert held.keys() == {p for p in kept if lora.is_adapter(p)}
    loop = dataclasses.replace(run.loop, save_frozen=True)
    train(dataclasses.replace(run, loop=loop), tmp_path, init_from=str(folder / "base"))
    sizes = [
        sum(f.stat().st_size for f in path.rglob("params/**/*") if f.is_file())
        for path in (folder / "lora", tmp_path)
    ]
    assert sizes[0] < sizes[1] / 5
    found, want = (tree.flatten(read_params(p)) for p in (folder / "lora", tmp_path))
    assert found.keys() == want.keys()
    for path, x in want.items():
        np.testing.assert_array_equal(found[path], x, path)


def test_a_base_is_found_where_both_were_moved_and_missed_where_it_is_gone(runs, tmp_path):
    folder, _, _ = runs
    want = tree.flatten(read_params(folder / "lora"))
    for name in ("base", "lora"):
        shutil.copytree(folder / name, tmp_path / "moved" / name)
    (folder / "base").rename(folder / "away")
    try:
        found = tree.flatten(read_params(tmp_path / "moved" / "lora"))
        for path, x in want.items():
            np.testing.assert_array_equal(found[path], x, path)
        for read in (read_params, StoredParams):
            with pytest.raises(UserError, match=r"left in .*base.*, which is gone"):
                read(folder / "lora")
    finally:
        (folder / "away").rename(folder / "base")


@long
def test_a_base_with_other_values_is_refused(runs, tmp_path):
    """Of the same shapes: a run of another seed stands in its place."""
    folder, run, _ = runs
    shutil.copytree(folder / "lora", tmp_path / "lora")
    stage = dataclasses.replace(run.stage, lora=(), rules=(Rule(""),), steps=3)
    loop = dataclasses.replace(run.loop, save_frozen=True)
    train(dataclasses.replace(run, seed=7, stage=stage, loop=loop), tmp_path / "base")
    (folder / "base").rename(folder / "away")
    try:
        with pytest.raises(UserError, match=r"trained on another base: \d+ parameters differ"):
            read_params(tmp_path / "lora")
        stored = StoredParams(tmp_path / "lora")
        with pytest.raises(UserError, match=r"trained on another base: \d+ parameters differ"):
            stored.read(stored.arrays)
    finally:
        (folder / "away").rename(folder / "base")


def test_a_run_without_what_is_frozen_needs_a_run_that_holds_it(runs, tmp_path):
    _, run, _ = runs
    with pytest.raises(UserError, match="save_frozen: found false, for a run that starts from no"):
        train(run, tmp_path / "run")


def test_an_export_reads_them_folded(runs):
    folder, _, _ = runs
    stored, want = StoredParams(folder / "lora"), tree.flatten(read_params(folder / "lora"))
    assert stored.arrays.keys() == want.keys()
    for path, x in stored.read(want).items():
        np.testing.assert_allclose(x, want[path], rtol=1e-6, atol=1e-7, err_msg=path)


def test_a_run_of_adapters_resumes_to_the_bit(runs, tmp_path):
    folder, run, whole = runs
    train(run, tmp_path, init_from=str(folder / "base"), stop_at=3)
    resumed = train(run, tmp_path, init_from=str(folder / "base"))
    for a, b in zip(*(jax.tree.leaves(jax.device_get(s)) for s in (whole, resumed)), strict=True):
        assert np.asarray(a).tobytes() == np.asarray(b).tobytes()
    with pytest.raises(UserError, match=r"on another base: \d+ parameters differ"):
        train(run, tmp_path, init_from=str(folder / "lora"))
    other = dataclasses.replace(run.stage, lora=(dataclasses.replace(LORA[0], rank=4), LORA[1]))
    with pytest.raises(UserError, match=r"a run with stage\.lora\.0\.rank=3; expected .*=4"):
        train(dataclasses.replace(run, stage=other), tmp_path, init_from=str(folder / "base"))


@long
def test_a_next_stage_begins_from_whole_kernels(runs, tmp_path):
    folder, run, _ = runs
    whole = dataclasses.replace(run.stage, name="next", lora=(), rules=(Rule(""),), steps=1)
    optimizer = dataclasses.replace(whole.optimizers["main"], learning_rate=0.0)
    whole = dataclasses.replace(whole, optimizers={"main": optimizer})
    state = train(dataclasses.replace(run, stage=whole), tmp_path, init_from=str(folder / "lora"))
    want = tree.flatten(read_params(folder / "lora"))
    for path, x in tree.flatten(jax.device_get(state.params)).items():
        np.testing.assert_array_equal(x, want[path], path)


# Mistakes


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: LoraRule("(", 1, 1.0), r"pattern: found '\(' .*; expected a regular expression"),
        (lambda: LoraRule("", 0, 1.0), "rank: found 0; expected 1 or more"),
        (lambda: LoraRule("", 1, 1.0, 1.0), "dropout: found 1.0; expected a share"),
        (
            lambda: lora.adapted(SYSTEM, (LoraRule("language_model/lm_head", 2, 2.0),)),
            r"patterns that adapt nothing: \['language_model/lm_head'\]; expected linear layers",
        ),
        (
            lambda: lora.adapted(SYSTEM, (LoraRule("", 2, 2.0), LoraRule("aligner/", 2, 2.0))),
            r"patterns that adapt nothing: \['aligner/'\]",
        ),
    ],
)
def test_what_adapts_nothing_is_told(make, message):
    with pytest.raises(UserError, match=message):
        make()


def test_adapters_beside_a_table_of_widths_are_refused():
    mesh = make_mesh(MeshConfig(), jax.devices()[:1])
    with pytest.raises(UserError, match="mup_base: found sizes, for a stage with adapters"):
        setup.build(SYSTEM, SMALL.stage, mesh, "data", jnp.float32, 0, mup_base=SYSTEM)
