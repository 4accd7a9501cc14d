"""`verify` sees what a loose comparison misses."""

import shutil

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from unijax.core.errors import UserError
from unijax.interop.exporting import export_checkpoint
from unijax.interop.verify import Difference, Verified, verify

LAYER = "model.language_model.layers.0"


@pytest.fixture
def tampered(export_dir, tmp_path):
    """A copy of the export with its tensors changed by a function."""

    def make(change):
        directory = tmp_path / "tampered"
        shutil.copytree(export_dir, directory)
        tensors = load_file(directory / "model.safetensors")
        change(tensors)
        tensors = {n: np.ascontiguousarray(x) for n, x in tensors.items()}
        save_file(tensors, directory / "model.safetensors", metadata={"format": "pt"})
        return directory

    return make


def test_an_untouched_export_is_equal(run_dir, export_dir):
    found = verify(run_dir, export_dir)
    assert found.ok
    assert found.differences == verify(run_dir, export_dir).differences
    text = str(found)
    for kind in ("text", "understanding", "generation", "decoded", "latents", "KL"):
        assert kind in text
    assert "beyond" not in text


def test_an_export_in_half_precision_is_compared_with_the_rounded_run(run_dir, tmp_path):
    export_checkpoint(run_dir, tmp_path / "half", dtype="bfloat16")
    found = verify(run_dir, tmp_path / "half", tolerance=1e-5)
    assert found.ok, f"\n{found}"
    assert found.rounded_to == "bfloat16"
    assert str(found).endswith("the run was rounded to bfloat16, as the export is")


def interleave(x):
    """Rows of the other rotary convention: pairs beside each other instead of halves."""
    heads = x.reshape(-1, 2, 4, x.shape[1])  # head, half, pair
    return heads.transpose(0, 2, 1, 3).reshape(x.shape)


def permute_rotary(tensors):
    for name in ("q_proj", "k_proj"):
        key = f"{LAYER}.self_attn.{name}.weight"
        tensors[key] = interleave(tensors[key])


def swap_norms(tensors):
    one, other = (f"{LAYER}.{n}.weight" for n in ("input_layernorm", "post_attention_layernorm"))
    tensors[one], tensors[other] = tensors[other], tensors[one]


def transpose_code_adaptor(tensors):
    key = "model.generation_aligner.hidden_layers.0.weight"
    tensors[key] = tensors[key].T


def swap_gate_and_up(tensors):
    one, other = (f"{LAYER}.mlp.{n}.weight" for n in ("gate_proj", "up_proj"))
    tensors[one], tensors[other] = tensors[other], tensors[one]


def roll_positions(tensors):
    key = "model.vision_model.embeddings.position_embedding.weight"
    tensors[key] = np.roll(tensors[key], 1, axis=0)


def flip_a_kernel(tensors):
    key = "model.vqmodel.decoder.conv_out.weight"
    tensors[key] = tensors[key][..., ::-1]


def nudge_encoder(tensors):
    tensors["model.vqmodel.quant_conv.bias"] += 1e-2


EVERY = {"text", "understanding", "generation"}


@pytest.mark.parametrize(
    ("change", "seen"),
    [
        (permute_rotary, EVERY),
        (swap_norms, EVERY),
        (swap_gate_and_up, EVERY),
        (transpose_code_adaptor, {"generation"}),
        (roll_positions, {"understanding"}),
        (flip_a_kernel, {"decoded"}),
        (nudge_encoder, {"latents"}),
    ],
)
def test_planted_errors_are_seen_where_they_are(run_dir, tampered, change, seen):
    found = verify(run_dir, tampered(change))
    assert not found.ok
    assert {d.kind for d in found.differences if d.largest > found.tolerance} >= seen
    if len(seen) == 1:
        # Without cause in the other prompts' paths there is no difference in them.
        clean = EVERY - seen
        assert all(d.largest < 1e-5 for d in found.differences if d.kind in clean)
    assert "beyond 0.0001" in str(found)


def test_not_a_number_is_not_equal():
    assert not Verified((Difference("text", float("nan"), 0.0),), 1e-4).ok


def test_an_export_with_a_tensor_missing_is_refused(run_dir, tampered):
    directory = tampered(lambda tensors: tensors.pop(f"{LAYER}.mlp.up_proj.weight"))
    with pytest.raises(UserError, match=r"1 tensors missing \(.*up_proj"):
        verify(run_dir, directory)


def test_a_truncated_export_is_told_not_traced(run_dir, export_dir, tmp_path):
    directory = tmp_path / "cut"
    shutil.copytree(export_dir, directory)
    file = directory / "model.safetensors"
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    with pytest.raises(UserError, match="expected a whole safetensors file"):
        verify(run_dir, directory)
