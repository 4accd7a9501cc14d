"""Every kind of optimizer against a library's, stacked leaves against leaves apart, and rules."""

import functools
import importlib
import importlib.util
import pathlib
import sys
import types

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import optax.contrib
import pytest
import torch

from unijax.core import axes, tree
from unijax.core.errors import UserError
from unijax.train import kinds
from unijax.train.optimizer import GroupedOptimizer
from unijax.train.stage import KINDS, Knot, LoraRule, OptimizerConfig, Rule, StageConfig

L, WIDE, HIDDEN = 3, 130, 140  # wide enough for factors
STEPS = 4
LAYER = {
    "layers/mlp/kernel": ((WIDE, HIDDEN), (axes.EMBED, axes.MLP)),
    "layers/mlp/bias": ((HIDDEN,), (axes.MLP,)),
    "layers/norm/scale": ((WIDE,), (axes.NORM,)),
}
REST = {
    "embed/embedding": ((20, WIDE), (axes.VOCAB, axes.EMBED)),
    "head/kernel": ((WIDE, 20), (axes.EMBED, axes.VOCAB)),
    # More layers than there are columns: the largest two dims are not those of a matrix.
    "deep/kernel": ((200, 5, WIDE), (axes.LAYERS, axes.EMBED, axes.MLP)),
}


def boxes(stacked: bool) -> dict:
    """Parameters of a small model, its layers on one axis or apart."""
    rng = np.random.default_rng(0)

    def box(shape, names, scale=1.0):
        return nn.LogicallyPartitioned(jnp.asarray(rng.normal(size=shape) * scale, "f"), names)

    found = {}
    for path, (shape, names) in LAYER.items():
        # Layers of other sizes: what is done to the stack as a whole would show.
        whole = rng.normal(size=(L, *shape)) * 10.0 ** np.arange(L).reshape(-1, *[1] * len(shape))
        values = [jnp.asarray(x, "f") for x in whole]
        if stacked:
            found[path] = nn.LogicallyPartitioned(jnp.stack(values), (axes.LAYERS, *names))
        else:
            for i, x in enumerate(values):
                found[path.replace("layers", f"layers_{i}")] = nn.LogicallyPartitioned(x, names)
    for path, (shape, names) in REST.items():
        found[path] = box(shape, names)
    return found


def apart(flat: dict) -> dict:
    """Stacked leaves as leaves of their own."""
    found = {}
    for path, x in flat.items():
        if path.startswith("layers/"):
            found |= {path.replace("layers", f"layers_{i}"): x[i] for i in range(L)}
        else:
            found[path] = x
    return found


def gradients(step: int) -> dict:
    """Of the stacked model."""
    rng = np.random.default_rng(step + 1)
    return {
        p: jnp.asarray(rng.normal(size=box.value.shape) * 10.0 ** -(i % 3), "f")
        for i, (p, box) in enumerate(boxes(True).items())
    }


ALL = (Rule(""),)


def train(config: OptimizerConfig, stacked=True, rules=ALL, steps=STEPS) -> dict:
    """Parameters after some steps, by path."""
    boxed = boxes(stacked)
    matched = {p: next(r for r in rules if p.startswith(r.pattern)) for p in boxed}
    leaves = {p: kinds.leaf(p, box, matched[p]) for p, box in boxed.items()}
    optimizer = GroupedOptimizer(StageConfig("s", 9, (), {"main": config}), matched, leaves)
    params = tree.unflatten({p: box.value for p, box in boxed.items()})
    state, update = optimizer.init(params), jax.jit(optimizer.update)
    for i in range(steps):
        grads = gradients(i) if stacked else apart(gradients(i))
        params, state = update(tree.unflatten(grads), state, params, jnp.array(True))
    return tree.flatten(params)


def config(kind, **changes):
    values = dict(kind=kind, weight_decay=0.1, b2=0.99, clip_norm=20.0) | changes
    return OptimizerConfig(0.01, **values)


def assert_close(found, want, start, tolerance=2e-6):
    """To rounding: relative to how far each parameter went, and to its own size."""
    assert found.keys() == want.keys()
    for path, x in want.items():
        moved = np.abs(np.asarray(x) - np.asarray(start[path])).max()
        assert moved > 0, path
        size = max(moved, np.abs(x).max())
        np.testing.assert_allclose(found[path], x, rtol=0, atol=tolerance * size, err_msg=path)


@pytest.mark.parametrize("kind", KINDS)
def test_a_stack_is_trained_as_its_layers_apart(kind):
    found, want = train(config(kind)), train(config(kind), stacked=False)
    start = {p: box.value for p, box in boxes(False).items()}
    # `deep` is a stack in both: as matrices of its own it stands in the tests below.
    assert_close(apart(found), want, start)


def unstacked(flat: dict) -> dict:
    """All stacks as leaves of their own, `deep` too."""
    found = apart(flat)
    deep = found.pop("deep/kernel")
    return found | {f"deep_{i}/kernel": x for i, x in enumerate(deep)}


def torch_params() -> dict[str, torch.nn.Parameter]:
    start = unstacked({p: box.value for p, box in boxes(True).items()})
    return {p: torch.nn.Parameter(torch.tensor(np.array(x))) for p, x in start.items()}


def decays(path: str) -> bool:
    return path.endswith(("kernel", "embedding"))


def torch_train(params: dict, make, clip: float | None = 20.0, steps: int = STEPS) -> dict:
    """With two groups of parameters: what decays and what does not."""
    groups = [
        {"params": [x for p, x in params.items() if decays(p)], "weight_decay": 0.1},
        {"params": [x for p, x in params.items() if not decays(p)], "weight_decay": 0.0},
    ]
    optimizer = make(groups)
    for i in range(steps):
        for p, g in unstacked(gradients(i)).items():
            params[p].grad = torch.tensor(np.array(g))
        if clip is not None:
            torch.nn.utils.clip_grad_norm_(params.values(), clip)
        optimizer.step()
    return {p: x.detach().numpy() for p, x in params.items()}


def lamb_of_timm():
    """Its file alone: the package imports what is not here."""
    folder = pathlib.Path(importlib.util.find_spec("timm").origin).parent / "optim"
    package = types.ModuleType("timm_optim")
    package.__path__ = [str(folder)]
    sys.modules["timm_optim"] = package
    return importlib.import_module("timm_optim.lamb").Lamb


OTHERS = {
    "adamw": lambda groups: torch.optim.AdamW(groups, lr=0.01, betas=(0.9, 0.99), eps=1e-8),
    "sgd": lambda groups: torch.optim.SGD(groups, lr=0.01, momentum=0.9),
}


@pytest.mark.parametrize("kind", OTHERS)
def test_equals_pytorch(kind):
    start = {p: x.detach().numpy().copy() for p, x in torch_params().items()}
    want = torch_train(torch_params(), OTHERS[kind])
    assert_close(unstacked(train(config(kind))), want, start)


def test_lamb_equals_the_one_that_eva_clip_trained_with():
    """Clips inside, by the norm before; the trust ratio is of what decays, and is not clipped."""
    make = functools.partial(lamb_of_timm(), lr=0.01, betas=(0.9, 0.99), eps=1e-8, max_grad_norm=1)
    start = {p: x.detach().numpy().copy() for p, x in torch_params().items()}
    want = torch_train(torch_params(), make, clip=None)
    assert_close(unstacked(train(config("lamb", clip_norm=1.0))), want, start)


def test_adafactor_equals_pytorch():
    """It has factors of every matrix; optax keeps the second moments of those below 128 whole."""
    make = functools.partial(torch.optim.Adafactor, lr=0.01)
    params = torch_params()
    start = {p: x.detach().numpy().copy() for p, x in params.items()}
    plain = lambda groups: make([g | {"weight_decay": 0.0} for g in groups])  # noqa: E731
    want = torch_train(params, plain, clip=None)
    found = unstacked(train(config("adafactor", b1=0.0, weight_decay=0.0, clip_norm=1e9)))
    same = [p for p in want if p.startswith("layers")]
    assert_close({p: found[p] for p in same}, {p: want[p] for p in same}, start, 1e-5)


# All that stands apart, but for most layers of the deepest stack.
FEW = set(unstacked({p: box.value for p, box in boxes(True).items()})) - {
    f"deep_{i}/kernel" for i in range(2, 198)
}


def assert_equals_optax(found: dict, library: optax.GradientTransformation, paths: set[str]):
    """Of its steps on leaves apart; nothing is clipped over all of them."""
    start = {p: jnp.array(x.detach().numpy()) for p, x in torch_params().items() if p in paths}
    state, want, update = library.init(start), start, jax.jit(library.update)
    for i in range(STEPS):
        grads = {p: g for p, g in unstacked(gradients(i)).items() if p in paths}
        updates, state = update(grads, state, want)
        want = optax.apply_updates(want, updates)
    assert_close({p: found[p] for p in paths}, want, start)


def test_adafactor_equals_optax_on_matrices_apart():
    found = unstacked(train(config("adafactor", weight_decay=0.0, clip_norm=1e9)))
    assert_equals_optax(found, optax.adafactor(0.01, momentum=0.9), FEW)


def test_muon_equals_pytorch_at_first_and_optax_after(monkeypatch):
    """They weigh momentum and gradient otherwise from the second step on."""
    hidden = [f"layers_{i}/mlp/kernel" for i in range(L)]
    start = {p: x.detach().numpy().copy() for p, x in torch_params().items()}
    monkeypatch.setattr(torch.Tensor, "bfloat16", lambda x: x.float())  # it rounds its iterations
    params = {p: x for p, x in torch_params().items() if p in hidden}
    muon = torch.optim.Muon(
        params.values(), lr=0.01, momentum=0.9, weight_decay=0.1, adjust_lr_fn="match_rms_adamw"
    )
    for p, g in unstacked(gradients(0)).items():
        if p in hidden:
            params[p].grad = torch.tensor(np.array(g))
    muon.step()
    found = unstacked(train(config("muon", clip_norm=1e9), steps=1))
    want = {p: x.detach().numpy() for p, x in params.items()}
    assert_close({p: found[p] for p in hidden}, want, start, 1e-5)

    found = unstacked(train(config("muon", clip_norm=1e9)))
    library = optax.contrib.muon(0.01, beta=0.9, weight_decay=0.1, consistent_rms=0.2)
    assert_equals_optax(found, library, {p for p in FEW if p in hidden or p.startswith("deep")})


def test_muon_leaves_tables_heads_and_vectors_to_adam():
    muon, adam = train(config("muon")), train(config("adamw"))
    same = {p for p in muon if np.array_equal(muon[p], adam[p])}
    assert same == {"layers/mlp/bias", "layers/norm/scale", "embed/embedding", "head/kernel"}


def test_layers_of_a_stack_have_rates_of_their_own():
    """As EVA has them: the first of L the smallest, the last below what follows."""
    decay = 0.5
    rules = (
        Rule("layers/", layer_decay=decay, lr_multiple=2.0),
        Rule("embed/", lr_multiple=decay ** (L + 1)),
        Rule(""),
    )
    alone = [Rule(f"layers_{i}/", lr_multiple=2.0 * decay ** (L - i)) for i in range(L)]
    found = train(config("adamw"), rules=rules)
    want = train(config("adamw"), stacked=False, rules=(*alone, *rules[1:]))
    assert_close(apart(found), want, {p: box.value for p, box in boxes(False).items()})
    start = boxes(True)["layers/norm/scale"].value
    once = train(config("adamw"), rules=rules, steps=1)
    # Adam's first step is as large as the rate.
    moved = np.abs(once["layers/norm/scale"] - start).mean(axis=1)
    np.testing.assert_allclose(moved, 0.01 * 2 * decay ** np.array([3, 2, 1]), rtol=1e-3)


def test_a_decay_of_layers_without_layers_is_refused():
    with pytest.raises(UserError, match=r"layer_decay=0.9 for 'embed/embedding'; expected"):
        train(config("adamw"), rules=(Rule("", layer_decay=0.9),))


def test_parameters_are_held_within_their_clamp():
    rules = (Rule("head/", clamp=(-0.5, 0.25)), Rule(""))
    held, free = train(config("adamw"), rules=rules, steps=1), train(config("adamw"), steps=1)
    np.testing.assert_array_equal(held["head/kernel"], np.clip(free["head/kernel"], -0.5, 0.25))
    assert np.abs(free["head/kernel"]).max() > 1
    for path in held.keys() - {"head/kernel"}:
        np.testing.assert_array_equal(held[path], free[path])


def test_a_step_that_is_not_applied_changes_nothing():
    for kind in KINDS:
        boxed = {p: box for p, box in boxes(True).items() if p.startswith("layers")}
        leaves = {p: kinds.leaf(p, box, Rule("")) for p, box in boxed.items()}
        rules = {p: Rule("", clamp=(-0.1, 0.1)) for p in boxed}
        stage = StageConfig("s", 9, (), {"main": config(kind)})
        optimizer = GroupedOptimizer(stage, rules, leaves)
        params = tree.unflatten({p: box.value for p, box in boxed.items()})
        grads = tree.unflatten({p: gradients(0)[p] for p in boxed})
        same, after = jax.jit(optimizer.update)(grads, optimizer.init(params), params, False)
        jax.tree.map(np.testing.assert_array_equal, same, params)
        counts = [x for x in jax.tree.leaves(after) if x.ndim == 0 and x.dtype == jnp.int32]
        assert sorted(int(x) for x in counts)[-1] == 1  # the schedule's


@pytest.mark.parametrize("decay", [0.0, 0.1])
def test_the_state_of_adamw_is_that_of_runs_of_before(decay):
    """Else their checkpoints could not be read."""
    params = tree.unflatten({p: box.value for p, box in boxes(True).items()})
    leaves = {p: kinds.leaf(p, box, Rule("")) for p, box in boxes(True).items()}
    stage = StageConfig("s", 9, (), {"main": OptimizerConfig(0.01, weight_decay=decay)})
    found = GroupedOptimizer(stage, {p: Rule("") for p in leaves}, leaves).init(params)
    mask = tree.unflatten({p: x.decays for p, x in leaves.items()})
    kept = [optax.add_decayed_weights(decay, mask)] if decay else []
    want = optax.chain(
        optax.clip_by_global_norm(1.0), optax.scale_by_adam(), *kept,
        optax.scale_by_learning_rate(lambda step: 0.01),
    ).init(params)  # fmt: skip
    assert jax.tree.structure(found) == jax.tree.structure({"main": want})


NAN = float("nan")


@pytest.mark.parametrize(
    ("make", "name", "values"),
    [
        (OptimizerConfig, "learning_rate", (-1.0, NAN, float("inf"))),
        (OptimizerConfig, "warmup_steps", (-1,)),
        (OptimizerConfig, "decay_fraction", (-0.1, 1.1, NAN)),
        (OptimizerConfig, "b1", (-0.1, 1.0, NAN)),
        (OptimizerConfig, "b2", (-0.1, 1.0, NAN)),
        (OptimizerConfig, "eps", (-1e-8, NAN)),
        (OptimizerConfig, "weight_decay", (-0.1, NAN)),
        (OptimizerConfig, "clip_norm", (-1.0, NAN)),
        (OptimizerConfig, "final_share", (-0.1, 1.1, NAN)),
        (Knot, "share", (-0.1, NAN)),
        (Rule, "lr_multiple", (-1.0, NAN)),
        (Rule, "layer_decay", (0.0, NAN)),
        (LoraRule, "alpha", (0.0, NAN)),
        (LoraRule, "dropout", (-0.1, 1.0, NAN)),
        (StageConfig, "ema_decay", (-0.1, 1.0, NAN)),
    ],
)
def test_a_number_out_of_bounds_is_told_before_it_trains(make, name, values):
    required = {
        OptimizerConfig: {"learning_rate": 1.0}, Knot: {"step": 0}, Rule: {"pattern": ""},
        LoraRule: {"pattern": "", "rank": 1, "alpha": 1.0},
        StageConfig: {"name": "s", "steps": 1, "rules": (), "optimizers": {}},
    }  # fmt: skip
    for value in values:
        with pytest.raises(UserError, match=rf"^stage\.(.*\.)?{name}: found {value}; expected a "):
            make(**required[make] | {name: value})


def test_a_norm_of_zero_clips_nothing():
    """As one that is never reached; it used to train nothing."""
    found, want = (train(config("adamw", clip_norm=norm), steps=2) for norm in (0.0, 1e30))
    for path, x in want.items():
        np.testing.assert_allclose(found[path], x, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: OptimizerConfig(1.0, kind="adam"), "kind: found 'adam'; expected one of"),
        (lambda: OptimizerConfig(1.0, kind="lamb"), "weight_decay: found 0.0; expected more than"),
        (lambda: Rule("", clamp=(1.0, 0.0)), r"clamp: found \(1.0, 0.0\); expected least and most"),
        (lambda: Rule("", clamp=(1.0,)), r"clamp: found \(1.0,\); expected least and most"),
        (lambda: Rule("", layer_decay=0.0), "layer_decay: found 0.0; expected .*more than 0"),
        (lambda: Rule("", clamp=(NAN, 1.0)), r"clamp: found \(nan, 1.0\); expected least and most"),
    ],
)
def test_what_no_optimizer_does_is_told(make, message):
    with pytest.raises(UserError, match=message):
        make()
