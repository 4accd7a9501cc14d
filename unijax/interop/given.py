"""Networks that others trained alone, as parts of a system."""

import pathlib

from unijax.core.errors import UserError
from unijax.core.json_files import shown
from unijax.interop import parts
from unijax.interop.config_parts import llama_config, read_config, siglip_config
from unijax.interop.opening import check_same, existing_directory, kind_of, untie
from unijax.interop.sources import SafetensorsSource, TorchSource, open_directory
from unijax.interop.table import Source, Table
from unijax.models.llama import LlamaConfig
from unijax.models.siglip import SiglipConfig
from unijax.models.towers import TowerConfig
from unijax.models.vqgan import VQConfig

Opened = tuple[Table, Source]
LLAMA = "a directory of a transformers LlamaForCausalLM"
SIGLIP = "a directory of a transformers SiglipModel or SiglipVisionModel"
VQ = "LlamaGen's image tokenizer: a torch file with the key model, or safetensors"


def llama(place: pathlib.Path, config: LlamaConfig, notes: list[str]) -> Opened:
    """A `LlamaForCausalLM` under `language_model`, of the sizes of the config."""
    path = existing_directory(place)
    found = llama_config(read_config(path), str(path / "config.json"), notes)
    check_same(str(path), found, config, ignore=("max_position_embeddings", "dropout"))
    table = parts.llama_part(config)
    weights, note = untie(open_directory(path), path, table, tied=False)
    notes += note
    return table, weights


def siglip(place: pathlib.Path, config: TowerConfig, notes: list[str]) -> Opened:
    """A tower under `vision_model`. Its activation is the config's, which may differ.

    Raises:
      UserError: for a config with another tower.
    """
    path = existing_directory(place)
    if not isinstance(config, SiglipConfig):
        raise UserError(
            "--part siglip", f"{path}, and a config whose tower is {config.kind!r}",
            "a config with a SigLIP tower", "Leave it out, or change model.vision.",
        )  # fmt: skip
    found = siglip_config(path, notes)
    check_same(str(path), found, config, ignore=("hidden_act", "features"))
    if found.hidden_act != config.hidden_act:
        notes.append(
            f"{path} was trained with {found.hidden_act}; the config says {config.hidden_act}"
        )
    weights = open_directory(path)
    prefix = "vision_model." if any(n.startswith("vision_model.") for n in weights.tensors) else ""
    return parts.siglip_part(config, prefix), weights


def llamagen_vq(place: pathlib.Path, config: VQConfig, notes: list[str]) -> Opened:
    """LlamaGen's tokenizer under `vqmodel`."""
    del notes
    if not (config.unit_codes and config.coarse_attention):
        raise UserError(
            shown(str(place)), "a part whose codes are compared by angle, with coarse attention",
            f"unit_codes={config.unit_codes}, coarse_attention={config.coarse_attention}, as the "
            "config says", "Use the part that belongs to it.",
        )  # fmt: skip
    return parts.vq_part(config), file_of(place, "model")


def file_of(path: pathlib.Path, key: str | None) -> Source:
    """The tensors of a safetensors file, or of a torch file, there under a key.

    Raises:
      UserError: if there is no such file.
    """
    if (found := kind_of(path)) != "a file":
        raise UserError(shown(str(path)), found, "a file of weights", "Correct the path.")
    if path.suffix == ".safetensors":
        return SafetensorsSource(str(path), [path])
    return TorchSource(str(path), [path], key=key)
