"""What is compared of a Chameleon: rows of text and of a picture, the image tokenizer's latents.

transformers' own model runs both formats. Its logits of image ids are masked, so that hidden states
times the head are compared, in the order of our ids. It has no decoder of pictures.
"""

import dataclasses
import functools
import json
import pathlib
import re
from typing import Any

import jax
import numpy as np
from jax import Array

from unijax.core.batch import Kind, PackedBatch
from unijax.core.errors import UserError
from unijax.core.system import Params
from unijax.core.vocab import SpecialIds
from unijax.interop.interface import Outputs
from unijax.interop.opening import ForeignModel
from unijax.interop.rows import ROWS, addresses, rows, slots
from unijax.interop.systems.chameleon import hf, meta
from unijax.interop.systems.chameleon.vocabulary import Codes
from unijax.systems.chameleon import IMAGE, Chameleon, ChameleonConfig

_WORDS = 12  # random text ids around an image


@dataclasses.dataclass(frozen=True)
class Prompts:
    """Inputs of a comparison.

    Attributes:
      before, after: int ids [B, n], never of image codes.
      codes: int [B, N], of the picture between them.
      pixels: float32 [B, height, width, 3] in -1..1, for the image tokenizer.
    """

    before: np.ndarray
    after: np.ndarray
    codes: np.ndarray
    pixels: np.ndarray


def prompts(config: ChameleonConfig, directory: pathlib.Path, rng: np.random.Generator) -> Prompts:
    """At random."""
    del directory
    first, count = config.first_code, config.vq.num_embeddings
    texts = np.delete(np.arange(config.text.vocab_size), np.arange(first, first + count))
    size = config.vq.image_size
    return Prompts(
        rng.choice(texts, (ROWS, 2 * _WORDS)),
        rng.choice(texts, (ROWS, _WORDS)),
        rng.integers(0, count, (ROWS, config.vq.num_tokens)),
        rng.uniform(-1, 1, (ROWS, size, size, 3)).astype(np.float32),
    )


def ours(config: ChameleonConfig, params: Params, given: Prompts, theirs: Outputs) -> Outputs:
    """Our outputs, as `theirs` has them."""
    del theirs
    text = [(Kind.TEXT, np.concatenate([given.before, given.after], axis=1))]
    image = [
        (Kind.TEXT, given.before),
        (Kind.GEN, addresses(config.vq.num_tokens)),
        (Kind.TEXT, given.after),
    ]
    picture = {IMAGE: slots(codes=given.codes[:, None].astype(np.int32))}
    both = rows(text), rows(image, **picture)
    return jax.device_get(_forward(config, params, *both, given.pixels, given.codes))


@functools.partial(jax.jit, static_argnums=0)
def _forward(
    config: ChameleonConfig,
    params: Params,
    text: PackedBatch,
    image: PackedBatch,
    pixels: Array,
    codes: Array,
) -> dict[str, Array]:
    system = Chameleon(config)
    vq = {"params": params["vqmodel"]}

    def logits(batch: PackedBatch) -> Array:
        hidden = system.states(params, system.embed(params, batch), batch)
        return system.head_logits(params, hidden)  # of all ids, those of codes too

    look_up = lambda model, codes: model.quantize.look_up(codes)  # noqa: E731
    return {
        "text": logits(text),
        "image": logits(image),
        "latents": system.vqmodel.apply(vq, pixels, method="encode_latents"),
        "codebook": system.vqmodel.apply(vq, codes, method=look_up),
    }


def theirs(model: ForeignModel, given: Prompts) -> Outputs:
    """Outputs of an export.

    Returns:
      `text` and `image` [B, T, V] logits of all ids, `latents` [B, N, d] of the pixels before they
      are quantised, `codebook` [B, N, d], the rows of the codes.

    Raises:
      UserError: if the directory does not load without remainder.
    """
    import torch
    import transformers

    transformers.utils.logging.disable_progress_bar()
    load = _load_hf if model.format.name == "hf" else _load_meta
    network, codes = load(model, torch, transformers)
    order = codes.columns(model.config.text.vocab_size)
    tensor = torch.from_numpy
    with torch.no_grad():
        picture = network.model.vocabulary_mapping.convert_img2bpe(tensor(given.codes)).long()
        texts = [tensor(given.before), tensor(given.after)]
        out = {}
        for name, ids in (("text", texts), ("image", [texts[0], picture, texts[1]])):
            hidden = network.model(input_ids=torch.cat(ids, dim=1)).last_hidden_state
            out[name] = network.lm_head(hidden)[..., order]
        vq = network.model.vqmodel
        latents = vq.quant_conv(vq.encoder(tensor(given.pixels).permute(0, 3, 1, 2)))
        out["latents"] = latents.permute(0, 2, 3, 1).flatten(1, 2)
        out["codebook"] = vq.quantize.embedding(tensor(given.codes))
    return {name: value.float().numpy() for name, value in out.items()}


def _load_hf(model: ForeignModel, torch: Any, transformers: Any) -> tuple[Any, Codes]:
    network, info = transformers.ChameleonForConditionalGeneration.from_pretrained(
        model.directory,
        dtype=torch.float32,
        attn_implementation="eager",
        output_loading_info=True,
        local_files_only=True,
    )
    _check_whole(model, {k: sorted(map(str, v)) for k, v in info.items() if v})
    return network.eval(), hf.codes_of(model.directory)


def _load_meta(model: ForeignModel, torch: Any, transformers: Any) -> tuple[Any, Codes]:
    """Loaded by rules of its own, which know nothing of the tables that wrote the export."""
    file = meta.text_tokenizer(model.directory)
    vocabulary = json.loads(file.read_text(encoding="utf-8"))["model"]["vocab"]
    codes = Codes.of(vocabulary, str(file))
    text = model.config.text
    special = SpecialIds(eos=0, bos=0, pad=0, image_placeholder=0)
    values = hf.hf_config(model.config, "float32", {**vocabulary, "<image>": 0}, special)
    config = transformers.ChameleonConfig.from_dict(values)
    config._attn_implementation = "eager"
    network = transformers.ChameleonForConditionalGeneration(config).float()
    state = {}
    for name in filter(lambda name: not model.table.is_dropped(name), model.weights.tensors):
        x = torch.from_numpy(model.weights.read(name).astype(np.float32))
        heads = text.num_attention_heads if ".wq." in name else text.num_key_value_heads
        if re.search(r"\.w[qk]\.", name):
            x = x.view(heads, -1, 2, x.shape[1]).transpose(1, 2).reshape(x.shape)
        if re.search(r"\.[qk]_normalization\.", name):
            heads = text.num_attention_heads if ".q_" in name else text.num_key_value_heads
            x = x.view(x.shape[0], -1, 2).transpose(1, 2).flatten(1)
            x = x.repeat_interleave(heads // x.shape[0], 0)
        for pattern, replacement in _RENAME:
            name = re.sub(pattern, replacement, name)
        if not name.startswith("model.vqmodel.decoder."):
            state[name] = x
    missing, extra = network.load_state_dict(state, strict=False)
    _check_whole(model, {"missing": missing, "unexpected": extra} if missing or extra else {})
    return network.eval(), codes


_RENAME = (
    (r"^tok_embeddings\.", "model.embed_tokens."), (r"^output\.", "lm_head."),
    (r"^(norm|layers)\.", r"model.\1."), (r"^vqgan\.", "model.vqmodel."),
    (r"\.attention\.w([qkvo])\.", r".self_attn.\1_proj."),
    (r"\.attention\.([qk])_normalization\.", r".self_attn.\1_norm."),
    (r"\.feed_forward\.w1\.", ".mlp.gate_proj."), (r"\.feed_forward\.w2\.", ".mlp.down_proj."),
    (r"\.feed_forward\.w3\.", ".mlp.up_proj."), (r"\.attention_norm\.", ".input_layernorm."),
    (r"\.ffn_norm\.", ".post_attention_layernorm."),
)  # fmt: skip


def _check_whole(model: ForeignModel, wrong: dict[str, Any]) -> None:
    if wrong:
        raise UserError(
            str(model.directory),
            "; ".join(f"{k}: {', '.join(map(str, list(v)[:5]))}" for k, v in wrong.items()),
            f"a directory that {model.format.loads} loads without remainder", "Export it again.",
        )  # fmt: skip
