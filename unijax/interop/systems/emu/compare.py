"""What is compared of an Emu: tokens of the tower, vectors, rows with a picture, the painter.

The other side is timm's EVA or transformers' SigLIP, transformers' T5 and Llama, and diffusers.
"""

import dataclasses
import functools
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from unijax.core.batch import Kind, PackedBatch
from unijax.core.system import Params
from unijax.interop import painter_part
from unijax.interop.interface import Outputs
from unijax.interop.live_llama import live_llama, loaded
from unijax.interop.opening import ForeignModel
from unijax.interop.painter_part import Pictures
from unijax.interop.rows import ROWS, addresses, rows, slots
from unijax.models.eva import EvaConfig
from unijax.ops.image import by_clip_statistics
from unijax.systems.emu import IMAGE, Emu, EmuConfig

_WORDS = 10  # random text ids before the picture, and behind it


@dataclasses.dataclass(frozen=True)
class Prompts:
    """Inputs: ids [B, n] around the picture, and what is shown."""

    before: np.ndarray
    after: np.ndarray
    shown: Pictures


def prompts(config: EmuConfig, directory: pathlib.Path, rng: np.random.Generator) -> Prompts:
    """At random."""
    del directory
    before, after = rng.integers(0, config.text.vocab_size, (2, ROWS, _WORDS))
    painter = config.painter
    return Prompts(before, after, painter_part.pictures(config.vision.image_size, painter, rng))


def ours(config: EmuConfig, params: Params, given: Prompts, theirs: Outputs) -> Outputs:
    """Our outputs, as `theirs` has them."""
    image = (Kind.GEN, addresses(config.num_tokens))
    parts = [(Kind.TEXT, given.before), image, (Kind.TEXT, given.after)]
    batch = rows(parts, **{IMAGE: slots(features=theirs["features"][:, None])})
    return jax.device_get(_forward(config, params, batch, given.shown, theirs["regressed"]))


@functools.partial(jax.jit, static_argnums=0)
def _forward(
    config: EmuConfig,
    params: Params,
    batch: PackedBatch,
    shown: Pictures,
    regressed: Array,
) -> dict[str, Array]:
    system = Emu(config)
    features = system.encode_features(params, shown.pixels)
    hidden = system.states(params, system.embed(params, batch), batch)
    out = {
        "features": features,
        "vectors": system.vectors(params, features),
        "hidden": hidden,
        "text": system.text_logits(params, hidden),
        "regressed": system.regress(params, hidden),
    }
    if config.painter is None:
        return out
    condition = regressed[:, _WORDS - 1 : _WORDS - 1 + config.num_tokens]
    return out | painter_part.ours(system.painter, params, shown, condition)


def theirs(model: ForeignModel, given: Prompts) -> Outputs:
    """Outputs of a directory, channels last."""
    import torch

    c, weights = model.config, model.weights
    norm = loaded(torch.nn.LayerNorm(c.vision.hidden_size, 1e-6), weights, "ln_visual.")
    cformer = loaded(_cformer(c), weights, "cformer.")
    llama = live_llama(c.text, weights, "decoder.lm.")
    width = c.text.hidden_size
    head = torch.nn.Linear(width, width, bias=False)
    head = loaded(head, weights, "decoder.lm.stu_regress_head.")
    with torch.no_grad():
        features = _tower(c, weights, given.shown.pixels)
        queries = cformer.causal_tokens.expand(ROWS, -1, -1)
        states = cformer.cformer(inputs_embeds=queries, encoder_hidden_states=norm(features))
        vectors = cformer.projection(states.last_hidden_state)
        words = [llama.model.embed_tokens(torch.from_numpy(x)) for x in (given.before, given.after)]
        hidden = llama.model(
            inputs_embeds=torch.cat([words[0], vectors, words[1]], dim=1)
        ).last_hidden_state
        out = {
            "features": features,
            "vectors": vectors,
            "hidden": hidden,
            "text": llama.lm_head(hidden),
            "regressed": head(hidden),
        }
    found = {name: x.float().numpy() for name, x in out.items()}
    if c.painter is None:
        return found
    condition = found["regressed"][:, _WORDS - 1 : _WORDS - 1 + c.num_tokens]
    return found | painter_part.theirs(model.directory, given.shown, condition)


def _tower(config: EmuConfig, weights, pixels: np.ndarray):
    """All tokens before the last norm."""
    import torch
    import transformers

    v = config.vision
    if isinstance(v, EvaConfig):
        from timm.models.eva import Eva

        from unijax.interop.timm_tower import arguments

        pixels = np.array(by_clip_statistics(jnp.asarray(pixels)))
        tower = Eva(**arguments(v) | {"use_rot_pos_emb": v.rope_grid > 0}, num_classes=0,
                    global_pool="")  # fmt: skip
        state = {}
        for name, like in tower.state_dict().items():
            if f"visual.{name}" in weights.tensors:
                state[name] = torch.from_numpy(np.asarray(weights.read(f"visual.{name}")))
            else:  # the last norm, which is not used
                state[name] = like
        tower.load_state_dict(state)
        tower.norm = torch.nn.Identity()
        run = tower.float().eval().forward_features
    else:
        keys = transformers.SiglipVisionConfig(
            hidden_size=v.hidden_size, intermediate_size=v.intermediate_size,
            num_hidden_layers=v.num_hidden_layers, num_attention_heads=v.num_attention_heads,
            image_size=v.image_size, patch_size=v.patch_size, layer_norm_eps=v.layer_norm_eps,
            hidden_act={"gelu_tanh": "gelu_pytorch_tanh"}.get(v.hidden_act, v.hidden_act),
            vision_use_head=False, attn_implementation="eager",
        )  # fmt: skip
        tower = transformers.SiglipVisionModel(keys)
        tower = loaded(tower, weights, "visual.", ("post_layernorm", "embeddings.position_ids"))

        def run(x):
            seen = tower(pixel_values=x, output_hidden_states=True)
            return seen.last_hidden_state if v.features == "post_norm" else seen.hidden_states[-1]

    return run(torch.from_numpy(np.moveaxis(pixels, -1, 1).copy()))


def _cformer(config: EmuConfig):
    """transformers' T5 decoder with a memory of another width, queries and a projection."""
    import torch
    from transformers import T5Config
    from transformers.models.t5.modeling_t5 import T5Stack

    c = config.cformer
    keys = T5Config(
        vocab_size=1, d_model=c.hidden_size, d_kv=c.head_dim, d_ff=c.intermediate_size,
        num_layers=c.num_hidden_layers, num_heads=c.num_attention_heads,
        relative_attention_num_buckets=c.num_buckets,
        relative_attention_max_distance=c.max_distance, dropout_rate=0.0,
        layer_norm_epsilon=c.rms_norm_eps, feed_forward_proj="relu", is_decoder=True,
        use_cache=False, attn_implementation="eager",
    )  # fmt: skip
    stack = T5Stack(keys)
    inner = c.num_attention_heads * c.head_dim
    for block in stack.block:
        attention = block.layer[1].EncDecAttention
        for name in "kv":
            linear = torch.nn.Linear(config.vision.hidden_size, inner, bias=False)
            setattr(attention, name, linear)
    del stack.embed_tokens
    model = torch.nn.Module()
    model.causal_tokens = torch.nn.Parameter(torch.zeros(1, c.num_queries, c.hidden_size))
    model.cformer = stack
    model.projection = torch.nn.Linear(c.hidden_size, config.text.hidden_size)
    return model
