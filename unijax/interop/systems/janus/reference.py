"""Exported models as transformers runs them, in float32: what `verify` compares with."""

import dataclasses
import re
from collections.abc import Mapping

import numpy as np

from unijax.core.errors import UserError
from unijax.core.vocab import SpecialIds
from unijax.interop.opening import ForeignModel
from unijax.interop.source_tokenizer import load_foreign
from unijax.interop.systems.janus.configs import hf_config


@dataclasses.dataclass(frozen=True)
class Prompts:
    """Inputs of a comparison, without padding.

    Attributes:
      text: int ids [B, T].
      und: int ids [B, T], with the placeholder where the image's tokens are.
      pixels: uint8 [B, height, width, 3], the image of each row of `und`.
      gen: int ids [B, S], up to begin-of-image.
      codes: int [B, N], the image that follows each row of `gen`.
    """

    text: np.ndarray
    und: np.ndarray
    pixels: np.ndarray
    gen: np.ndarray
    codes: np.ndarray


def outputs(exported: ForeignModel, prompts: Prompts) -> dict[str, np.ndarray]:
    """Float32 logits of every kind of prompt, and the picture and latents of the image tokenizer.

    Returns:
      `text` and `understanding` [B, T, V], `generation` [B, N, K], `decoded` [B, h, w, 3] of the
      codes, `latents` [B, N, d] of `decoded` before quantisation.

    Raises:
      UserError: if the directory does not load without remainder.
    """
    import torch
    import transformers

    transformers.utils.logging.disable_progress_bar()
    special = load_foreign(exported.directory).special
    return _outputs(_load(exported, special, torch, transformers), prompts, torch)


def _outputs(model, prompts: Prompts, torch) -> dict[str, np.ndarray]:
    tensor = torch.from_numpy
    out = {}
    with torch.no_grad():
        out["text"] = model(input_ids=tensor(prompts.text)).logits
        pixels = tensor(prompts.pixels).permute(0, 3, 1, 2).float() / 127.5 - 1.0
        out["understanding"] = model(input_ids=tensor(prompts.und), pixel_values=pixels).logits
        codes = tensor(prompts.codes)
        embeddings = torch.cat(
            [
                model.get_input_embeddings()(tensor(prompts.gen)),
                model.prepare_embeddings_for_image_generation(codes[:, :-1]),
            ],
            dim=1,
        )
        hidden = model.model.language_model(inputs_embeds=embeddings).last_hidden_state
        out["generation"] = model.model.generation_head(hidden[:, prompts.gen.shape[1] - 1 :])
        vq = model.model.vqmodel
        decoded = vq.decode(codes)
        out["decoded"] = decoded.permute(0, 2, 3, 1)
        out["latents"] = vq.quant_conv(vq.encoder(decoded)).permute(0, 2, 3, 1).flatten(1, 2)
    return {name: value.float().numpy() for name, value in out.items()}


def _load(exported: ForeignModel, special: SpecialIds, torch, transformers):
    cls = transformers.JanusForConditionalGeneration
    if exported.format.name == "hf":
        model, info = cls.from_pretrained(
            exported.directory,
            dtype=torch.float32,
            attn_implementation="eager",
            output_loading_info=True,
            local_files_only=True,
        )
        wrong = {k: sorted(map(str, v)) for k, v in info.items() if v}
    else:
        values = hf_config(exported.config, "float32", special)
        config = transformers.JanusConfig.from_dict(values)
        config._attn_implementation = "eager"
        model = cls(config).float()
        weights = exported.weights
        state = _renamed({name: weights.read(name) for name in weights.tensors})
        missing, extra = model.load_state_dict(
            {n: torch.from_numpy(x.astype(np.float32)) for n, x in state.items()}, strict=False
        )
        wrong = {k: v for k, v in {"missing_keys": missing, "unexpected_keys": extra}.items() if v}
    if wrong:
        raise UserError(
            str(exported.directory),
            "; ".join(f"{k}: {', '.join(v[:5])}" for k, v in wrong.items()),
            "a directory that JanusForConditionalGeneration loads without remainder",
            "Export it again.",
        )
    return model.eval()


# From deepseek-ai's names to transformers', independent of the tables that wrote the export.
_RENAME = (
    (r"^language_model\.lm_head\.", "lm_head."),
    (r"^language_model\.model\.", "model.language_model."),
    (r"^vision_model\.vision_tower\.pos_embed$",
     "model.vision_model.embeddings.position_embedding.weight"),
    (r"^vision_model\.vision_tower\.patch_embed\.proj\.",
     "model.vision_model.embeddings.patch_embedding."),
    (r"^vision_model\.vision_tower\.norm\.", "model.vision_model.post_layernorm."),
    (r"^vision_model\.vision_tower\.blocks\.(\d+)\.", r"model.vision_model.encoder.layers.\1."),
    (r"(vision_model\.encoder\.layers\.\d+)\.norm([12])\.", r"\1.layer_norm\2."),
    (r"(vision_model\.encoder\.layers\.\d+)\.attn\.proj\.", r"\1.self_attn.projection_layer."),
    (r"(vision_model\.encoder\.layers\.\d+)\.attn\.", r"\1.self_attn."),
    (r"^gen_vision_model\.", "model.vqmodel."),
    (r"^(model\.vqmodel\.encoder)\.conv_blocks\.", r"\1.down."),
    (r"^(model\.vqmodel\.decoder)\.conv_blocks\.", r"\1.up."),
    (r"^(model\.vqmodel\..*)\.res\.", r"\1.block."),
    (r"^(model\.vqmodel\..*)\.mid\.0\.", r"\1.mid.block_1."),
    (r"^(model\.vqmodel\..*)\.mid\.1\.", r"\1.mid.attn_1."),
    (r"^(model\.vqmodel\..*)\.mid\.2\.", r"\1.mid.block_2."),
    (r"^aligner\.layers\.0\.", "model.aligner.fc1."),
    (r"^aligner\.layers\.2\.", "model.aligner.hidden_layers.0."),
    (r"^gen_aligner\.layers\.0\.", "model.generation_aligner.fc1."),
    (r"^gen_aligner\.layers\.2\.", "model.generation_aligner.hidden_layers.0."),
    (r"^gen_head\.output_mlp_projector\.", "model.generation_head.proj_out."),
    (r"^gen_head\.vision_head\.", "model.generation_head.vision_head."),
    (r"^gen_embed\.", "model.generation_embeddings."),
)  # fmt: skip


def _renamed(state: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    out = {}
    for name, array in state.items():
        for pattern, replacement in _RENAME:
            name = re.sub(pattern, replacement, name)
        if ".self_attn.qkv." in name:
            for part, rows in zip("qkv", np.split(array, 3)):
                out[name.replace(".qkv.", f".{part}_proj.")] = rows
        elif name.endswith("position_embedding.weight"):
            out[name] = array.squeeze(0) if array.ndim == 3 else array
        else:
            out[name] = array
    return out
