"""Parts that start from another run's or from a file: what is taken, resized, left, refused."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from unijax.core import tree
from unijax.core.errors import UserError
from unijax.ops.resize import resize_bicubic, resize_positions
from unijax.train.carry import carried
from unijax.train.weights import save_weights

HERE = jax.sharding.SingleDeviceSharding(jax.devices()[0])


def tower(positions=17, patch=4, **more) -> dict[str, np.ndarray]:
    """Of width 6: a class token and 4 x 4 patches."""
    rng = np.random.default_rng(0)
    shapes = {
        "embeddings/position_embedding/embedding": (positions, 6),
        "embeddings/patch_embedding/kernel": (3 * patch**2, 6),
        "encoder/layers/mlp/w1/kernel": (2, 6, 16),
    }
    return {n: rng.normal(size=s).astype(np.float32) for n, s in (shapes | more).items()}


def like(parts: dict[str, dict]) -> dict[str, jax.ShapeDtypeStruct]:
    flat = {f"{group}/{n}": x for group, leaves in parts.items() for n, x in leaves.items()}
    return {p: jax.ShapeDtypeStruct(x.shape, jnp.float32, sharding=HERE) for p, x in flat.items()}


@pytest.fixture
def file(tmp_path):
    def write(**groups) -> str:
        flat = {f"{group}/{n}": x for group, leaves in groups.items() for n, x in leaves.items()}
        path = tmp_path / "weights.safetensors"
        save_weights(path, tree.unflatten(flat), jnp.float32)
        return str(path)

    return write


def test_a_group_is_taken_as_it_is_under_the_name_that_it_has_there(file):
    source = file(vision_model=tower(), other={"x": np.ones(2, np.float32)})
    for group, spec in (("vision_model", source), ("teacher/tower", f"{source}:vision_model")):
        found = carried(spec, group, like({group: tower(), "head": {"kernel": np.ones(3)}}), {})
        assert found.keys() == {f"{group}/{name}" for name in tower()}
        for name, x in tower().items():
            np.testing.assert_array_equal(found[f"{group}/{name}"], x)


def test_positions_and_patches_of_another_size_are_resized(file):
    source = file(vision_model=tower())
    found = carried(source, "vision_model", like({"vision_model": tower(37, 6)}), {})
    old = tower()
    table = old["embeddings/position_embedding/embedding"]
    np.testing.assert_array_equal(
        found["vision_model/embeddings/position_embedding/embedding"], resize_positions(table, 6)
    )
    kernel = old["embeddings/patch_embedding/kernel"].reshape(4, 4, 3, 6)
    want = np.asarray(resize_bicubic(kernel, 6, 6)).reshape(108, 6)
    np.testing.assert_array_equal(found["vision_model/embeddings/patch_embedding/kernel"], want)
    without = {**tower(16), "embeddings/position_embedding/embedding": table[1:]}
    found = carried(
        file(vision_model=without), "vision_model", like({"vision_model": tower(36)}), {}
    )
    np.testing.assert_array_equal(
        found["vision_model/embeddings/position_embedding/embedding"],
        resize_positions(table[1:], 6, 0),
    )


def test_mask_tokens_stay_behind_and_norms_of_eva_clip_start_fresh(file, capsys):
    norm = {f"encoder/layers/self_attn/inner_attn_ln/{n}": (2, 6) for n in ("scale", "bias")}
    source = file(vision_model=tower(**{"embeddings/mask_token": (6,)}))
    found = carried(source, "vision_model", like({"vision_model": tower(**norm)}), {})
    assert found.keys() == {f"vision_model/{name}" for name in tower()}
    said = capsys.readouterr().err
    assert "left behind: vision_model/embeddings/mask_token" in said
    assert "starting fresh: vision_model/encoder/layers/self_attn/inner_attn_ln/bias" in said


@pytest.mark.parametrize(
    ("group", "name", "ours", "message"),
    [
        ("tower", "", {}, r"init: found no parameter group 'tower'; expected one of \['aligner', "),
        ("aligner", "", {}, r"init.aligner: .*: found no parameter group 'aligner'; expected one"),
        ("vision_model", ":vision", {}, r"found no parameter group 'vision'; expected one of"),
        (
            "aligner", ":vision_model",
            {"aligner": {"fc1/kernel": np.ones((8, 6))}},
            r"1 parameters missing \(aligner/fc1/kernel\); 3 parameters unexpected",
        ),
        (
            "vision_model", "",
            {"vision_model": tower() | {"encoder/layers/mlp/w1/kernel": np.ones((2, 6, 20))}},
            r"of another shape \(vision_model/encoder/layers/mlp/w1/kernel \(2, 6, 16\) instead of",
        ),
    ],
)  # fmt: skip
def test_what_is_not_the_same_is_refused(file, group, name, ours, message):
    """An aligner of another tower's width among them."""
    source = file(vision_model=tower())
    parts = {"vision_model": tower(), "aligner": {"fc1/kernel": np.ones((6, 6))}} | ours
    with pytest.raises(UserError, match=message):
        carried(source + name, group, like(parts), {})


def test_an_aligner_of_another_towers_width_is_refused(file):
    source = file(aligner={"fc1/kernel": np.ones((6, 4), np.float32)})
    ours = like({"aligner": {"fc1/kernel": np.ones((8, 4))}})
    with pytest.raises(UserError, match=r"aligner/fc1/kernel \(6, 4\) instead of \(8, 4\)"):
        carried(source, "aligner", ours, {})


def test_positions_of_texts_are_not_taken_for_a_grid(file):
    """A table of 77 is no 8 x 8 with 13 tokens before it."""
    source = file(text_model={"position_embedding/embedding": np.ones((77, 6), np.float32)})
    ours = like({"text_model": {"position_embedding/embedding": np.ones((32, 6))}})
    with pytest.raises(UserError, match=r"position_embedding/embedding \(77, 6\) instead of"):
        carried(source, "text_model", ours, {})


def test_a_run_that_was_not_trained_yet_is_told(tmp_path):
    ours = like({"vision_model": tower()})
    for name in ("", ":vision_model"):
        with pytest.raises(UserError, match=r"init: .*mim: found nothing; expected a run direc"):
            carried(f"{tmp_path / 'mim'}{name}", "vision_model", ours, {})


def test_a_copy_of_another_group_or_of_a_part_of_it():
    """And it is a copy: what is donated of one stays whole in the other."""
    ours = like({"a": tower(), "b/tower": tower()})
    begun = {f"b/tower/{name}": jnp.asarray(x) for name, x in tower().items()}
    found = carried(":b/tower", "a", ours, begun)
    assert found.keys() == {f"a/{name}" for name in tower()}
    for name, x in tower().items():
        np.testing.assert_array_equal(found[f"a/{name}"], x)
        assert found[f"a/{name}"] is not begun[f"b/tower/{name}"]
    with pytest.raises(UserError, match=r"init\.a: found :c, which does not hold the same"):
        carried(":c", "a", ours, begun)
    with pytest.raises(UserError, match=r"init\.a: found :a, which does not hold the same"):
        carried(":a", "a", ours, begun | {f"a/{name}": x for name, x in tower().items()})  # itself


def test_new_rows_of_a_vocabulary_begin_as_the_mean_of_the_old_ones(file, capsys):
    """Marks that a decoder learns beside its words; a smaller table is no start."""
    rng = np.random.default_rng(0)

    def decoder(ids: int) -> dict[str, np.ndarray]:
        shapes = {"embed_tokens/embedding": (ids, 4), "lm_head/kernel": (4, ids)}
        return {n: rng.normal(size=s).astype(np.float32) for n, s in shapes.items()}

    old = decoder(5)
    source = file(language_model=old)
    found = carried(source, "language_model", like({"language_model": decoder(7)}), {})
    for name, axis in (("embed_tokens/embedding", 0), ("lm_head/kernel", 1)):
        x = np.moveaxis(np.asarray(found[f"language_model/{name}"]), axis, 0)
        table = np.moveaxis(old[name], axis, 0)
        np.testing.assert_array_equal(x[:5], table)
        np.testing.assert_allclose(x[5:], np.tile(table.mean(axis=0), (2, 1)), rtol=1e-6)
    assert "with new rows, the mean of the others: language_model/embed" in capsys.readouterr().err
    with pytest.raises(UserError, match=r"embed_tokens/embedding \(5, 4\) instead of \(3, 4\)"):
        carried(source, "language_model", like({"language_model": decoder(3)}), {})


def test_numbers_that_are_rounded_are_told(tmp_path, capsys):
    """Frozen ones went out otherwise than they came in, and nothing said so."""
    shapes = like({"vision_model": tower()})
    for i, (dtype, wanted, is_told) in enumerate((
        (jnp.float32, jnp.bfloat16, True),
        (jnp.float16, jnp.bfloat16, True),
        (jnp.bfloat16, jnp.float32, False),
        (jnp.float32, jnp.float32, False),
    )):  # fmt: skip
        source = tmp_path / f"{i}.safetensors"
        save_weights(source, {"vision_model": tree.unflatten(tower())}, dtype)
        ours = {
            p: jax.ShapeDtypeStruct(x.shape, wanted, sharding=x.sharding) for p, x in shapes.items()
        }
        carried(str(source), "vision_model", ours, {})
        line = f"of {source}, rounded to the type that this run keeps: vision_model (bfloat16)"
        assert (line in capsys.readouterr().err) == is_told
