"""MetaQuery: an export runs in transformers and diffusers, and comes back; parts of others."""

import dataclasses
import json

import numpy as np
import pytest

from tests import latent_oracles
from tests.interop.conftest import VOCAB, write_run
from tests.long import MARKS
from tests.weights import randomise
from unijax.core import tree
from unijax.core.errors import UserError
from unijax.core.record import to_json
from unijax.interop import diffusers_parts
from unijax.interop.exporting import export_checkpoint
from unijax.interop.importing import import_checkpoint, import_parts
from unijax.interop.opening import open_model
from unijax.interop.systems.metaquery import INTEROP, networks
from unijax.interop.table import foreign_shapes
from unijax.interop.verify import verify
from unijax.models.autoencoder import AutoencoderConfig
from unijax.models.connector import ConnectorConfig
from unijax.models.dc_autoencoder import SIZES as DC
from unijax.models.llama import LlamaConfig
from unijax.models.qwen_vision import QwenVisionConfig
from unijax.models.sana import SanaConfig
from unijax.models.siglip import SiglipConfig
from unijax.models.unet import UNetConfig
from unijax.ops.diffusion import EPSILON
from unijax.systems.metaquery import SIZES, STABLE_DIFFUSION, MetaQuery, MetaQueryConfig
from unijax.train import checkpoint

TEXT = LlamaConfig(
    VOCAB, 32, 48, 2, 4, 2, 8, rope_theta=1e6, max_position_embeddings=256, qkv_bias=True,
    tie_word_embeddings=True,
)  # fmt: skip
SIGLIP = SiglipConfig(
    18, 4, 16, 32, 2, 2, hidden_act="gelu_tanh", features="pre_norm", leaves_pixels=True
)
QWEN = QwenVisionConfig(
    image_size=16, patch_size=2, hidden_size=16, intermediate_size=20, depth=2, num_heads=2,
    window_size=8, fullatt_block_indexes=(1,), out_hidden_size=32, min_pixels=16,
)  # fmt: skip
DC_AE = dataclasses.replace(DC["dc_ae_test"], image_size=16)
SANA = SanaConfig(4, 8, 8, 2, 4, 8, 2, 16, 24)
B = MetaQueryConfig(
    TEXT, SIGLIP, newline=True, queries=4, marks=(3, 4),
    connector=ConnectorConfig(32, 24, 2, 8, scale=1.5), generator=SANA, autoencoder=DC_AE,
)  # fmt: skip
KL = AutoencoderConfig(16, 4, (32, 64), 1, scaling_factor=0.7, shift_factor=0.1)
UNET = UNetConfig(8, 4, 4, (32, 64), 1, (True, False), True, 24, 4)
CONFIGS = {
    "b, sana": B,
    "l, sd": dataclasses.replace(
        B, text=dataclasses.replace(TEXT, mrope_section=(1, 1, 2)), vision=QWEN, newline=False,
        generator=UNET, autoencoder=KL, schedule=STABLE_DIFFUSION, prediction=EPSILON,
    ),
    "llama, proj_enc": dataclasses.replace(
        B, text=LlamaConfig(VOCAB, 32, 48, 2, 4, 2, 8, 1e-5), newline=False,
        vision=SiglipConfig(8, 4, 16, 32, 2, 2),
        connector=ConnectorConfig(32, 24, 1, 8, "proj_enc"),
    ),
}  # fmt: skip


# As long as the two others together.
CASES = [pytest.param(name, marks=MARKS if name == "l, sd" else ()) for name in CONFIGS]


@pytest.fixture(scope="module", params=CASES)
def run(request, tmp_path_factory):
    config, place = CONFIGS[request.param], tmp_path_factory.mktemp("run") / "run"
    run = write_run(place, "metaquery", config)
    if config.merges:  # its pictures have marks
        path = run / "tokenizer" / "special_tokens.json"
        content = json.loads(path.read_text())
        content["names"] |= {"vision_start": "<|User|>", "vision_end": "<|Assistant|>"}
        path.write_text(json.dumps(content))
    return run


@pytest.fixture(scope="module")
def out(run):
    export_checkpoint(run, run.parent / "out", max_shard_bytes=200_000)
    return run.parent / "out"


def test_those_who_wrote_its_parts_give_the_same_outputs(run, out):
    found = verify(run, out, tolerance=1e-4)
    assert found.ok, f"\n{found}"
    assert [d.kind for d in found.differences] == [
        "features", "queries", "condition", "prediction", "latents", "decoded", "drawn",
    ]  # fmt: skip


def test_it_comes_back_equal_to_the_bit_but_for_a_head_of_its_own(run, out, tmp_path):
    done = import_checkpoint(out, tmp_path / "again")
    before, after = (tree.flatten(checkpoint.read_params(d)) for d in (run, tmp_path / "again"))
    assert before.keys() == after.keys()
    for path, x in before.items():
        if not path.startswith("language_model/lm_head"):
            np.testing.assert_array_equal(after[path], x, err_msg=path)
    assert to_json(done.config) == checkpoint.read_run(run)["config"]["model"]


def test_marks_and_queries_are_the_last_rows_of_the_table(run, out):
    model = open_model(out)
    merges = model.config.merges
    name = "model" if merges else "language_model.model"
    table = model.weights.read(f"model.mllm_backbone.{name}.embed_tokens.weight")
    params = tree.flatten(checkpoint.read_params(run))
    assert table.shape == (VOCAB + 2 + 4, 32)
    np.testing.assert_array_equal(table[VOCAB : VOCAB + 2], params["queries/marks"])
    np.testing.assert_array_equal(table[VOCAB + 2 :], params["queries/embedding"])


def test_a_release_says_its_sizes_by_the_names_of_its_parts(tmp_path):
    said = {
        "model_type": "metaquery", "num_metaqueries": 77, "connector_num_hidden_layers": 24,
        "mllm_id": "Qwen/Qwen2.5-VL-3B-Instruct",
        "diffusion_model_id": "stable-diffusion-v1-5/stable-diffusion-v1-5",
    }  # fmt: skip
    path = tmp_path / "config.json"
    path.write_text(json.dumps(said))
    (form,) = INTEROP.formats
    assert form.read_config(tmp_path, [], None) == SIZES["metaquery_l_sd"]
    for key, value, message in (
        ("mllm_id", "meta-llama/Llama-3.2-3B", "mllm_id: found .*; expected one that ends in"),
        ("num_metaqueries", 0, "num_metaqueries: found 0; expected a whole number, 1 to"),
        ("num_metaqueries", 10**12, "num_metaqueries: found 1000000000000"),
        # Names of a billion layers would be written down before any tensor is looked for.
        ("connector_num_hidden_layers", 10**9, "connector_num_hidden_layers: found 1000000000"),
        ("connector_num_hidden_layers", "24", "connector_num_hidden_layers: found '24'"),
    ):
        path.write_text(json.dumps(said | {key: value}))
        with pytest.raises(UserError, match=message):
            form.read_config(tmp_path, [], None)


@pytest.mark.parametrize("size", ["metaquery_b_sana", "metaquery_xl_sd"])
def test_every_tensor_of_a_published_size_has_a_name(size, tmp_path):
    from unijax.interop.opening import abstract_params

    config = SIZES[size]
    table = INTEROP.formats[0].table(config, tmp_path)
    shapes = {p: a.shape for p, a in abstract_params("metaquery", config).items()}
    in_table = {p for e in table.entries for p in e.ours}
    left = {p for p in shapes.keys() - in_table if not p.startswith("language_model/lm_head")}
    assert not left
    found = foreign_shapes(table, {p: shapes[p] for p in in_table})
    decoder = "model" if config.merges else "language_model.model"
    rows = config.text.vocab_size + 2 + config.queries
    name = f"model.mllm_backbone.{decoder}.embed_tokens.weight"
    assert found[name] == (rows, config.text.hidden_size)


def test_parts_of_others(tmp_path):
    """A Sana and an autoencoder in diffusers' directories; the rest is fresh."""
    for name, config in (("sana", SANA), ("dc", DC_AE)):
        cls = getattr(latent_oracles.diffusers, networks.class_of(config))
        randomise(cls.from_config(networks.config_json(config))).save_pretrained(tmp_path / name)
    parts = {"generator": tmp_path / "sana", "autoencoder": tmp_path / "dc"}
    import_parts(tmp_path / "run", "metaquery", B, parts)
    params = checkpoint.read_params(tmp_path / "run")
    for group, place in parts.items():
        _, want = diffusers_parts.read(place)
        found = tree.flatten(params[group])
        for path, x in tree.flatten(want).items():
            np.testing.assert_array_equal(found[path], x, err_msg=path)
    assert params.keys() == MetaQuery(B)._parts().keys()
    with pytest.raises(UserError, match="a SanaTransformer2DModel; expected a UNet2DCondition"):
        import_parts(tmp_path / "other", "metaquery", CONFIGS["l, sd"], parts)


def test_an_export_asks_for_the_tokenizer_of_its_marks(tmp_path):
    run = write_run(tmp_path / "run", "metaquery", dataclasses.replace(B, marks=(5, 6)))
    with pytest.raises(UserError, match=r"model.marks: found \(5, 6\), and a tokenizer whose"):
        export_checkpoint(run, tmp_path / "out")
