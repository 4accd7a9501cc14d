"""A decoder of a foreign checkpoint, running in transformers: what systems are compared with."""

import dataclasses
from typing import Any

from unijax.interop.config_files import decoder_json
from unijax.interop.table import Source
from unijax.models.llama import LlamaConfig


def llama_keys(config: LlamaConfig) -> dict[str, Any]:
    """Keys of transformers' `LlamaConfig`, of a plain decoder or of Llama 3.1's."""
    rope: dict[str, Any] = {"rope_type": "default"}
    if config.rope_scaling is not None:
        rope = {"rope_type": "llama3", **dataclasses.asdict(config.rope_scaling)}
    return {
        **decoder_json(config),
        "head_dim": config.head_dim,
        "rope_parameters": {"rope_theta": config.rope_theta, **rope},
        "tie_word_embeddings": False,
    }


def loaded(module: Any, weights: Source, prefix: str = "", optional: tuple[str, ...] = ()) -> Any:
    """A torch module with the tensors of a checkpoint, in float32, ready to run.

    Args:
      prefix: what their names begin with there.
      optional: beginnings of names of the module that the checkpoint need not have.
    """
    import numpy as np
    import torch

    state = {}
    for name, like in module.state_dict().items():
        if prefix + name in weights.tensors:
            x = torch.from_numpy(np.asarray(weights.read(prefix + name), np.float32))
            assert x.shape == like.shape, (name, x.shape, like.shape)
            state[name] = x
        else:
            assert name.startswith(optional), f"{prefix}{name} is not in {weights.where}"
    module.load_state_dict(state, strict=False)
    return module.float().eval()


def live_llama(config: LlamaConfig, weights: Source, prefix: str = "") -> Any:
    """transformers' `LlamaForCausalLM` with the tensors of a checkpoint."""
    import transformers

    keys = transformers.LlamaConfig(**llama_keys(config), attn_implementation="eager")
    return loaded(transformers.LlamaForCausalLM(keys), weights, prefix)
