"""The benchmark's own arithmetic; and that both contenders compute the same on its documents."""

import itertools
import json
import pathlib
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench import janus_case, janus_ours, janus_peer, janus_sections
from bench.janus_case import CASES, products
from bench.janus_contender import Contender
from bench.janus_documents import IGNORED, Documents, micro_batches, pad, padding_share
from bench.janus_report import Spread, put_section, ratio, table
from bench.janus_sections import check_codes, check_losses, in_turns
from unijax.core.tree import flatten
from unijax.data import tokenizer as tokenizers
from unijax.systems.janus import Janus
from unijax.train.checkpoint import read_params
from unijax.train.flops import training_flops
from unijax.train.stage import match_rules

CASE = CASES["quick"]


STEPS = 2


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> pathlib.Path:
    path = tmp_path_factory.mktemp("case")
    janus_case.write_case(CASE, path, STEPS)
    return path


def test_both_take_the_same_steps_of_the_recipe(folder):
    """Packed rows against padded batches. Equal second losses: gradients, clipping, AdamW agree."""
    ours = janus_ours.recipe(CASE, folder, cache_frozen=False)["steps"](STEPS)
    for by_length in (False, True):
        theirs = janus_peer.recipe(folder, by_length)["steps"](STEPS)
        assert theirs["documents"] == ours["documents"] > 6
        assert ours["losses"][1] < ours["losses"][0] - 1e-3
        for a, b in zip(ours["losses"], theirs["losses"], strict=True):
            check_losses(a, b, 1e-5)


def test_both_have_the_same_loss_on_the_dense_batch(folder):
    special = tokenizers.load(folder / "run" / "tokenizer").special
    batch, system = janus_case.dense_batch(CASE, special), Janus(CASE.model)
    assert (batch.segment == 1).all()
    args = read_params(folder / "run"), jax.tree.map(jnp.asarray, batch), jax.random.key(0)
    sums, _ = jax.jit(system.loss, static_argnums=4)(*args, jnp.int32(0), frozenset())
    training = janus_peer.Training(folder)
    documents = Documents.load(folder / "dense.npz")
    padded = pad(documents, range(len(documents.lengths)), training.image_tokens)
    for everywhere in (False, True):
        theirs = janus_peer.loss_sum(training.model, padded, everywhere).item()
        check_losses(float(sums["text"] + sums["code"]), theirs, 1e-5)


def test_documents_of_a_packed_batch(folder):
    """Each document is a row of its own after padding; nothing is lost."""
    documents = Documents.load(folder / "recipe-1.npz")
    sizes = CASE.model.vision.num_tokens, CASE.model.vq.num_tokens
    assert documents.und.sum() == sizes[0] * len(documents.und_pixels) > 0
    assert documents.gen.sum() == sizes[1] * len(documents.gen_pixels) > 0
    batches = micro_batches(documents.lengths, 3, by_length=True)
    assert sorted(i for b in batches for i in b) == list(range(len(documents.lengths)))
    padded = [pad(documents, b, sizes) for b in batches]
    assert sum(p.mask.sum() for p in padded) == documents.lengths.sum()
    assert sum((p.label != IGNORED).sum() + p.gen.sum() for p in padded) == documents.targets
    computed = sum(p.mask.size for p in padded)
    share = padding_share(documents.lengths, batches)
    assert share == pytest.approx(1 - documents.lengths.sum() / computed)
    first = batches[0][0]
    start = documents.lengths[:first].sum()
    row = documents.ids[start : start + documents.lengths[first]]
    np.testing.assert_array_equal(padded[0].ids[0][padded[0].mask[0]], row)


def test_the_floor_counts_the_products_of_a_step(folder):
    """As the model counts its own, but for attention: there a rectangle stands for a triangle."""
    special = tokenizers.load(folder / "run" / "tokenizer").special
    batch = jax.tree.map(jnp.asarray, janus_case.dense_batch(CASE, special))
    paths = list(flatten(jax.eval_shape(Janus(CASE.model).init, jax.random.key(0))))
    rules = match_rules(janus_case.STAGE, paths)
    want = float(training_flops(Janus(CASE.model), batch, rules))
    shapes = products(CASE)
    got = sum(2 * b * m * k * n * times for b, m, k, n, times in shapes)
    assert got == pytest.approx(want, rel=0.01)
    assert json.loads((folder / "products.json").read_text()) == shapes


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(1, 50), min_size=1, max_size=30), st.integers(1, 9), st.booleans())
def test_micro_batches(lengths, size, by_length):
    lengths = np.array(lengths)
    batches = micro_batches(lengths, size, by_length)
    assert sorted(i for b in batches for i in b) == list(range(len(lengths)))
    assert all(len(b) == size for b in batches[:-1])
    assert 0 <= padding_share(lengths, batches) < 1
    if by_length:
        ends = [(lengths[b].min(), lengths[b].max()) for b in batches]
        assert all(a[1] <= b[0] for a, b in itertools.pairwise(ends))


def test_ratios_are_taken_round_by_round():
    assert ratio([2.0, 9.0, 4.0], [1.0, 3.0, 8.0]) == Spread(2.0, 0.5, 3.0)
    assert Spread(2.0, 0.5, 3.0).text(1) == "2.0 (0.5 to 3.0)"
    assert table(["a", "b"], [["1", "2"]]) == "| a | b |\n| --- | --- |\n| 1 | 2 |"


def test_turns_alternate(monkeypatch):
    monkeypatch.setattr(janus_sections, "PAUSE", 0.0)
    seen = []
    asks = {name: lambda name=name: seen.append(name) or {"seconds": 1.0} for name in "ab"}
    assert [len(x) for x in in_turns(asks, 3).values()] == [3, 3]
    assert "".join(seen) == "abbaab"


def test_a_section_is_put_in_place_of_the_old_one():
    once = put_section("# Title\n\nwords\n", "first \\1")
    assert once.startswith("# Title\n\nwords\n\n<!--")
    again = put_section(once + "\nmore words\n", "second")
    assert "first" not in again
    assert again.index("words") < again.index("second") < again.index("more words")


def test_unlike_losses_and_codes_are_refused():
    assert check_losses(1.00001, 1.0) == pytest.approx(1e-5)
    with pytest.raises(ValueError, match="losses differ"):
        check_losses(1.001, 1.0)
    assert check_codes([[1, 2, 3]], [[1, 2, 3]], [[1.0, 1.0, 1.0]]) == 3
    assert check_codes([[1, 9, 3]], [[1, 2, 8]], [[1.0, 1e-6, 1.0]]) == 1
    with pytest.raises(ValueError, match="code 9 here, 2 in transformers"):
        check_codes([[1, 9, 3]], [[1, 2, 3]], [[1.0, 0.5, 1.0]])


def test_a_contender_answers_and_its_end_is_noticed(tmp_path, monkeypatch):
    (tmp_path / "echo.py").write_text(
        "import sys\n"
        "from bench.janus_contender import serve\n"
        "def say(words):\n"
        "    print('chatter')\n"
        "    return {'said': words + sys.argv[1]}\n"
        "serve({'say': say, 'leave': lambda: sys.exit(3)})\n"
    )
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}:{pathlib.Path.cwd()}")
    with Contender("echo", "!") as contender:
        assert contender.ask("say", words="hello") == {"said": "hello!"}
        with pytest.raises(RuntimeError, match="status 3 at 'leave'"):
            contender.ask("leave")
    assert "echo" not in sys.modules
