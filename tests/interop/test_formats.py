"""The tables cover every parameter of every named size, and every tensor of transformers' model."""

import dataclasses
import json
import math

import numpy as np
import pytest
import torch
from transformers import JanusConfig, JanusForConditionalGeneration

from unijax.core.errors import UserError
from unijax.core.record import to_json
from unijax.core.vocab import SpecialIds
from unijax.interop.opening import abstract_params, config_of
from unijax.interop.systems.janus import tables
from unijax.interop.systems.janus.configs import hf_config
from unijax.interop.systems.janus.reference import _renamed
from unijax.interop.systems.janus.tables import TABLES
from unijax.interop.table import foreign_shapes
from unijax.ops.rope import RopeScaling
from unijax.systems.janus import SIZES

SPECIAL = SpecialIds(bos=0, eos=1, pad=2, boi=3, eoi=4, image_placeholder=5)
TOTALS = {
    "janus_1b": 2_076_636_811, "janus_pro_1b": 2_076_636_811, "janus_pro_7b": 7_407_773_323
}  # fmt: skip
BLOCKS = {
    "janus_pro_1b": {
        "vision_model": 303_688_704, "aligner": 6_295_552, "vqmodel": 71_883_403,
        "generation_embeddings": 131_072, "generation_aligner": 4_214_784,
        "generation_head": 37_767_168, "language_model": 1_442_940_928 + 209_715_200,
    },
    "janus_pro_7b": {
        "vision_model": 303_688_704, "aligner": 20_979_712, "vqmodel": 71_883_403,
        "generation_embeddings": 131_072, "generation_aligner": 16_818_176,
        "generation_head": 83_906_560, "language_model": 6_490_935_296 + 419_430_400,
    },
}  # fmt: skip


def shapes_of(name):
    return {p: a.shape for p, a in abstract_params("janus", SIZES[name]).items()}


@pytest.mark.parametrize("name", TOTALS)
@pytest.mark.parametrize("format", TABLES)
def test_a_table_has_every_parameter_once(name, format):
    table = TABLES[format](SIZES[name])
    paths = [p for e in table.entries for p in e.ours]
    assert sorted(paths) == sorted(shapes_of(name))
    theirs = foreign_shapes(table, shapes_of(name))
    assert sum(map(math.prod, theirs.values())) == TOTALS[name]


@pytest.mark.parametrize("name", BLOCKS)
def test_blocks_have_the_published_counts(name):
    counts = dict.fromkeys(BLOCKS[name], 0)
    for path, shape in shapes_of(name).items():
        counts[path.split("/")[0]] += math.prod(shape)
    assert counts == BLOCKS[name]


@pytest.mark.parametrize("name", BLOCKS)
def test_shapes_are_those_of_transformers(name):
    config = SIZES[name]
    with torch.device("meta"):
        model = JanusForConditionalGeneration(
            JanusConfig.from_dict(hf_config(config, "bfloat16", SPECIAL))
        )
    expected = {n: tuple(x.shape) for n, x in model.state_dict().items()}
    assert foreign_shapes(tables.hf(config), shapes_of(name)) == expected
    # deepseek-ai's names, translated by rules that the table does not know.
    released = foreign_shapes(tables.deepseek(config), shapes_of(name))
    blank = {n: np.broadcast_to(np.zeros((), bool), s) for n, s in released.items()}
    assert {n: x.shape for n, x in _renamed(blank).items()} == expected


OPTIONS = {
    "rope_scaling": RopeScaling(8.0, 1.0, 4.0, 8192), "mrope_section": (16, 24, 24),
    "qkv_bias": True, "qk_norm": "layer_norm", "norm_order": "post", "tie_word_embeddings": True,
}  # fmt: skip


def with_text(**options):
    config = SIZES["janus_pro_1b"]
    return dataclasses.replace(config, text=dataclasses.replace(config.text, **options))


@pytest.mark.parametrize("name", OPTIONS)
def test_a_decoder_that_a_format_cannot_say_is_refused(name):
    """Some of them leave no trace in the names and shapes of the tensors."""
    with pytest.raises(UserError, match=f"text.{name}: found .*as a plain Llama has it"):
        hf_config(with_text(**{name: OPTIONS[name]}), "bfloat16", SPECIAL)


def test_what_a_run_records_of_a_decoder_is_read_back():
    config = with_text(**OPTIONS, dropout=0.1)
    run = json.loads(json.dumps({"config": {"system": "janus", "model": to_json(config)}}))
    found = config_of(run, "here")[1]
    assert found == config
    assert hash(found) == hash(config)
