"""LLaVAFusion: a directory of LLaVA-NeXT as its frozen model; no way out yet."""

import dataclasses

import numpy as np
import pytest
import torch

from tests.interop.conftest import random_weights
from tests.interop.test_llava import LLAMA3, LLAMA3_NAMES, llava_next, write_tokenizer
from tests.systems.test_transfusion import AUTOENCODER, PATCHES
from unijax.core import tree
from unijax.core.errors import UserError
from unijax.data import tokenizer as tokenizer_lib
from unijax.interop import registry
from unijax.interop.exporting import export_checkpoint
from unijax.interop.importing import import_checkpoint, import_parts
from unijax.systems.llavafusion import LLaVAFusionConfig
from unijax.systems.reading import ReadingConfig
from unijax.train import checkpoint


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """A directory of LLaVA-NeXT, its parameters by path, and a config over it."""
    folder = tmp_path_factory.mktemp("base")
    directory = folder / "model"
    directory.mkdir()
    ids = write_tokenizer(directory, LLAMA3, LLAMA3_NAMES)
    torch.manual_seed(0)
    theirs = llava_next(ids).eval()
    random_weights(theirs, 0)
    theirs.save_pretrained(directory)
    alone = import_checkpoint(directory, folder / "alone").run_dir
    _, read = registry.recognize(directory)
    found = read.read_config(directory, [], None)
    fields = {f.name: getattr(found, f.name) for f in dataclasses.fields(ReadingConfig)}
    config = LLaVAFusionConfig(**fields, autoencoder=AUTOENCODER, patches=PATCHES)
    return directory, tree.flatten(checkpoint.read_params(alone)), config


@pytest.mark.parametrize("separation", ["deep", "shallow"])
def test_the_frozen_model_comes_in_whole_and_the_twin_begins_as_its_copy(
    base, tmp_path, separation
):
    directory, want, config = base
    config = dataclasses.replace(config, separation=separation)
    import_parts(tmp_path / "run", "llavafusion", config, {"base": directory})
    found = tree.flatten(checkpoint.read_params(tmp_path / "run"))
    for path, x in want.items():
        np.testing.assert_array_equal(found[path], x, err_msg=path)
    groups = {path.split("/")[0] for path in found.keys() - want.keys()}
    assert groups == {"autoencoder", "image_layers", "image_twin"}
    twin = [path for path in found if path.startswith("image_twin/")]
    assert any("q_proj" in path for path in twin) == (separation == "deep")
    for path in twin:
        text = want[path.replace("image_twin/", "language_model/")]
        np.testing.assert_array_equal(found[path], text, err_msg=path)
    recorded = checkpoint.read_run(tmp_path / "run")["config"]
    assert recorded["data"]["template"] == "llama3"
    special = tokenizer_lib.load(tmp_path / "run" / "tokenizer").special
    assert (special.bos, special.image_placeholder, special.boi) == (0, 3, None)


def test_another_model_is_refused(base, tmp_path):
    directory, _, config = base
    text = dataclasses.replace(config.text, intermediate_size=64)
    wider = dataclasses.replace(config, text=text)
    with pytest.raises(UserError, match="intermediate_size=48 instead of 64"):
        import_parts(tmp_path / "run", "llavafusion", wider, {"base": directory})
    with pytest.raises(UserError, match="no part 'llama' of the system 'llavafusion'"):
        import_parts(tmp_path / "run", "llavafusion", config, {"llama": directory})


def test_a_run_is_not_exported_and_told_so(base, tmp_path):
    directory, _, config = base
    import_parts(tmp_path / "run", "llavafusion", config, {"base": directory})
    for form in (None, "torch"):
        with pytest.raises(UserError, match="formats of the system 'llavafusion': found none"):
            export_checkpoint(tmp_path / "run", tmp_path / "out", form)
    assert not (tmp_path / "out").exists()
