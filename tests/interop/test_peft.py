"""Adapters in peft's form, both ways, against peft itself on transformers' Janus."""

import json
import shutil

import numpy as np
import peft
import pytest
import torch
from safetensors.numpy import load_file, save_file
from transformers import JanusForConditionalGeneration

from unijax.core import tree
from unijax.core.errors import UserError
from unijax.interop.exporting import export_checkpoint
from unijax.interop.opening import config_of
from unijax.interop.peft import CONFIG, export_adapters, import_adapters
from unijax.systems.registry import recipe
from unijax.train import base, lora
from unijax.train.checkpoint import read_params, read_run, step_directory
from unijax.train.stage import LoraRule
from unijax.train.streaming import LazyArray, write_params

RULES = (
    LoraRule("language_model/layers/self_attn/", rank=3, alpha=6.0, dropout=0.05),
    LoraRule("language_model/layers/mlp/", rank=2, alpha=1.0),
    LoraRule("vision_model/encoder/layers/self_attn/q_proj", rank=2, alpha=2.0),
)


def write_adapters(run_dir, folder, rules=RULES):
    """A run directory of adapters alone, at random, on an imported Janus."""
    run = read_run(run_dir)
    system, config = config_of(run, str(run_dir))
    rng, found = np.random.default_rng(3), {}
    shapes = lora.init_shapes(lora.adapted(recipe(system).system(config), rules))
    for path, box in tree.flatten(shapes).items():
        if path.endswith(("lora_a", "lora_b")):
            x = rng.standard_normal(box.value.shape, np.float32) * 0.3
        elif lora.is_adapter(path):
            rule = next(r for r in rules if path.startswith(r.pattern))
            value = rule.dropout if path.endswith("dropout") else rule.alpha / rule.rank
            x = np.full(box.value.shape, value, np.float32)
        else:
            continue
        found[path] = LazyArray(x.shape, x.dtype, lambda x=x: x)
    folder.mkdir(parents=True)
    shutil.copytree(run_dir / "tokenizer", folder / "tokenizer")
    recorded = {"stage": "lora", "config": run["config"]}
    write_params(folder, found, recorded | base.record(folder, step_directory(run_dir)))
    return folder


@pytest.fixture(scope="module")
def adapters(run_dir, tmp_path_factory):
    return write_adapters(run_dir, tmp_path_factory.mktemp("lora") / "run")


@pytest.fixture(scope="module")
def exported(adapters, tmp_path_factory):
    folder = tmp_path_factory.mktemp("peft") / "adapters"
    export_adapters(adapters, folder)
    return folder


def logits(model) -> torch.Tensor:
    ids = torch.arange(10, 40).reshape(2, 15)
    pixels = torch.linspace(-1, 1, 3 * 64 * 64).reshape(1, 3, 64, 64)
    with torch.no_grad():
        text = model(input_ids=ids).logits
        seen = model.get_base_model() if isinstance(model, peft.PeftModel) else model
        return text, seen.model.vision_model(pixels).last_hidden_state


def test_peft_loads_the_adapters_to_the_logits_of_the_merged_export(
    adapters, exported, hf_dir, tmp_path
):
    export_checkpoint(adapters, tmp_path / "merged")
    want = logits(JanusForConditionalGeneration.from_pretrained(tmp_path / "merged").eval())
    plain = JanusForConditionalGeneration.from_pretrained(hf_dir).eval()
    before = logits(plain)
    found = logits(peft.PeftModel.from_pretrained(plain, exported).eval())
    for got, wanted, without in zip(found, want, before):
        assert (got - wanted).abs().max() <= 1e-5 * wanted.abs().max()
        assert (without - wanted).abs().max() > 1e-3 * wanted.abs().max()  # they matter


def test_it_holds_the_adapters_and_nothing_else(exported):
    names = load_file(exported / "adapter_model.safetensors")
    # 3 layers of 4 and 3 matrices, 2 of one; an A and a B of each
    assert len(names) == 2 * (3 * (4 + 3) + 2)
    said = json.loads((exported / CONFIG).read_text())
    assert (said["r"], said["lora_alpha"], said["lora_dropout"]) == (2, 1.0, 0.05)
    assert {*said["rank_pattern"].values()} == {2, 3}
    assert {*said["alpha_pattern"].values()} == {2.0, 6.0}


def test_what_was_exported_comes_back_to_the_bit(adapters, exported, run_dir, tmp_path):
    import_adapters(exported, run_dir, tmp_path / "back")
    found, want = (tree.flatten(read_params(p)) for p in (tmp_path / "back", adapters))
    base_ = tree.flatten(read_params(run_dir))
    assert found.keys() == want.keys() == base_.keys()
    for path, x in want.items():
        np.testing.assert_array_equal(found[path], x, path)
    assert any(not np.array_equal(base_[p], want[p]) for p in want)


@pytest.mark.parametrize("rslora", [False, True])
def test_adapters_of_peft_are_imported(rslora, run_dir, hf_dir, tmp_path):
    """Of some layers of a stack, with ranks of their own."""
    theirs = JanusForConditionalGeneration.from_pretrained(hf_dir).eval()
    config = peft.LoraConfig(
        r=4, lora_alpha=6, target_modules=r".*language_model.*\.(q_proj|down_proj)",
        layers_to_transform=None, rank_pattern={r"layers\.1\.self_attn\.q_proj": 2},
        alpha_pattern={r"layers\.1\.self_attn\.q_proj": 5}, use_rslora=rslora,
        init_lora_weights=False,
    )  # fmt: skip
    model = peft.get_peft_model(theirs, config).eval()
    model.save_pretrained(tmp_path / "theirs")
    import_adapters(tmp_path / "theirs", run_dir, tmp_path / "run")
    export_checkpoint(tmp_path / "run", tmp_path / "merged")
    found = logits(JanusForConditionalGeneration.from_pretrained(tmp_path / "merged").eval())[0]
    want = logits(model)[0]
    assert (found - want).abs().max() <= 1e-5 * want.abs().max()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"use_dora": True}, "use_dora: found True; expected False: adapters that are sums"),
        ({"peft_type": "IA3"}, "peft_type: found 'IA3'"),
        ({"modules_to_save": ["lm_head"]}, "modules_to_save"),
        ({"r": None}, "r: found None; expected a number"),
    ],
)
def test_other_adapters_are_refused(change, message, exported, run_dir, tmp_path):
    shutil.copytree(exported, tmp_path / "in")
    said = json.loads((tmp_path / "in" / CONFIG).read_text())
    (tmp_path / "in" / CONFIG).write_text(json.dumps(said | change))
    with pytest.raises(UserError, match=message):
        import_adapters(tmp_path / "in", run_dir, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_adapters_for_another_base_are_refused(exported, run_dir, tmp_path):
    tensors = load_file(exported / "adapter_model.safetensors")
    for number, (change, message) in enumerate(
        (
            (
                lambda n, x: (n.replace("self_attn", "attn"), x),
                "adapters of .*attn.*expected those",
            ),
            (
                lambda n, x: (n, np.concatenate([x, x], axis=-1)),
                r"\(r, 32\) and \(\d+, r\), as the",
            ),
        )
    ):
        folder = tmp_path / f"{number}"
        shutil.copytree(exported, folder)
        save_file(
            dict(change(n, x) for n, x in tensors.items()), folder / "adapter_model.safetensors"
        )
        with pytest.raises(UserError, match=message):
            import_adapters(folder, run_dir, tmp_path / "run")


def test_a_run_without_adapters_has_none_to_export(run_dir, tmp_path):
    with pytest.raises(UserError, match="a run without adapters"):
        export_adapters(run_dir, tmp_path / "out")
    assert not (tmp_path / "out").exists()
