"""`ChameleonForConditionalGeneration` of transformers: config, tensors, processor.

Names were read in transformers 5 (`modeling_chameleon.py`). That class reads pictures and draws
none: it lacks the decoder of the image tokenizer, which is exported in a file of its own beside the
weights, with the names of Meta's `vqgan.ckpt`.
"""

import dataclasses
import pathlib
from typing import Any

import numpy as np

from unijax.core.errors import UserError
from unijax.core.json_files import read_object, write_object
from unijax.core.vocab import SpecialIds
from unijax.data import tokenizer as tokenizer_lib
from unijax.interop import plain
from unijax.interop.config_files import llama_json, special_ids
from unijax.interop.config_parts import (
    DROPOUT,
    check_vq_runs,
    llama_config,
    read_config,
    vq_counts,
)
from unijax.interop.hf_tokenizer import write_hf_tokenizer
from unijax.interop.interface import Export, Import, said_template
from unijax.interop.parts import TAMING_VQ, llama, vq
from unijax.interop.safetensors_writer import SafetensorsWriter
from unijax.interop.sections import SIDE, Section
from unijax.interop.source_tokenizer import tell_padding
from unijax.interop.sources import SafetensorsSource, Together, open_directory
from unijax.interop.systems.chameleon.vocabulary import Codes, codes_of_run
from unijax.interop.table import Entry, Source, Table, TensorInfo, Transform
from unijax.models.vqgan import VQConfig
from unijax.systems.chameleon import ChameleonConfig

DECODER = "image_decoder"  # the file beside the weights, without its ending
_PLACEHOLDER = "<image>"
_TOP = {
    "swin_norm": False, "rms_norm_eps": 1e-5, "vocab_size": 65536, "max_position_embeddings": 4096,
}  # fmt: skip
_VQ = {
    "model_type": "chameleon_vqgan", "embed_dim": 256, "num_embeddings": 8192,
    "double_latent": False, "latent_channels": 256, "resolution": 512, "in_channels": 3,
    "base_channels": 128, "channel_multiplier": (1, 1, 2, 2, 4), "num_res_blocks": 2,
    "attn_resolutions": None, "attn_type": "vanilla", "out_channels": 3,
}  # fmt: skip

# Of `plain.VQ`, what stands here too; codes are found by distance.
_PLAIN_VQ = {k: v for k, v in plain.VQ.items() if k not in (*_VQ, "z_channels")}
_PLAIN_VQ["codebook_l2_norm"] = plain.OFF


def config(directory: pathlib.Path, notes: list[str], like: Any = None) -> ChameleonConfig:
    """Sizes of a directory."""
    del like
    path = directory / "config.json"
    values = read_config(directory)
    top = Section(f"{path}", values, _TOP)
    top.plain(plain.ANYWHERE)
    top.classes("ChameleonForConditionalGeneration", "ChameleonModel")
    top.require("swin_norm", True, False)
    own = ("swin_norm", "vq_config", "vocabulary_map", "model_parallel_size", "image_token_id")
    decoder = {k: v for k, v in values.items() if k not in own}
    # Of the keys that this class shares with Llama's, under the name of the latter.
    decoder |= {"model_type": "llama", "architectures": None}
    for key in _TOP.keys() - {"swin_norm"}:
        decoder[key] = top.get(key)
    text = llama_config(decoder, f"{path}", notes)
    order = "post" if top.get("swin_norm") else "pre"
    text = dataclasses.replace(text, qk_norm="layer_norm", norm_order=order)
    codes = codes_of(directory)
    return ChameleonConfig(text, _vq_config(top, len(codes.ids), notes), codes.first)


def _vq_config(top: Section, codes: int, notes: list[str]) -> VQConfig:
    q = top.group("vq_config", _VQ)
    q.require("model_type", "chameleon_vqgan")
    q.require("double_latent", False)
    q.require("attn_type", "vanilla")
    q.require("in_channels", 3)
    q.require("num_embeddings", codes)
    multiplier = q.wholes("channel_multiplier", 64, 12)
    size = q.whole("resolution", SIDE)
    grid = size // 2 ** (len(multiplier) - 1)
    attended = q.get("attn_resolutions") or []
    q.require("attn_resolutions", None, [], [grid])
    found = VQConfig(
        image_size=size,
        channel_multiplier=multiplier,
        **vq_counts(q),
        coarse_attention=bool(attended),
        unit_codes=False,
    )
    check_vq_runs(found, q.where)
    q.plain(plain.ANYWHERE | _PLAIN_VQ)
    notes += q.unknown((*DROPOUT, "out_channels", "ch", "out_ch", "n_embed", "ch_mult", "double_z",
                        "z_channels", "ddconfig", "lossconfig", "ckpt_path", "beta"))  # fmt: skip
    return found


def codes_of(directory: pathlib.Path) -> Codes:
    """Ids of image codes, by the vocabulary in config.json."""
    top = Section(str(directory / "config.json"), read_config(directory))
    vocabulary = top.group("vocabulary_map")
    return Codes.of(top.get("vocabulary_map") or {}, vocabulary.where)


def table(config: ChameleonConfig, directory: pathlib.Path) -> Table:
    """Of a directory whose config.json is there; with the decoder of pictures if that is there or
    is being written."""
    codes = codes_of(directory)
    entries = []
    for entry in llama(config.text, "language_model", "model", "lm_head.weight"):
        rows = entry.theirs in ("model.embed_tokens.weight", "lm_head.weight")
        entries.append(codes.permuted(entry) if rows else entry)
    written = any(directory.glob("model*.safetensors")) or any(directory.glob("*.bin"))
    decoder = not written or (directory / f"{DECODER}.safetensors").is_file()
    for entry in image_tokenizer(config.vq, "model.vqmodel."):
        if decoder or not entry.theirs.startswith("model.vqmodel.decoder."):
            entries.append(entry)
    return Table(tuple(entries), dropped=(r"model\.rotary_emb\.inv_freq",))


def image_tokenizer(config: VQConfig, theirs: str) -> list[Entry]:
    """In the names of taming-transformers. The other side compares codes by distance, so that unit
    codes are written at their length of 1: the nearest are the same then."""
    entries = vq(config, "vqmodel", theirs, TAMING_VQ)
    if config.unit_codes:
        unit = Transform(lambda x: x, _unit)
        entries = [
            dataclasses.replace(e, transform=unit) if "quantize" in e.theirs else e for e in entries
        ]
    return entries


def _unit(x: np.ndarray) -> np.ndarray:
    if x.dtype == bool:  # a view of one number, of which the shape is wanted
        return x
    rows = x.astype(np.float32)
    return (rows / np.linalg.norm(rows, axis=-1, keepdims=True).clip(1e-12)).astype(x.dtype)


def record(source: Import) -> dict:
    """What an import records under `data`."""
    path = source.directory / "preprocessor_config.json"
    if path.exists():
        images = Section(str(path), read_object(path))
        if images.get("resample") not in (None, 3):
            source.notes.append(
                f"{path} scales pictures by resample={images.get('resample')}; here they are "
                "scaled bicubically (3)"
            )
    return said_template(source)


def weights(directory: pathlib.Path) -> Source:
    """The weights, and the decoder of pictures where it is there."""
    beside = directory / f"{DECODER}.safetensors"
    model = open_directory(directory)
    return Together(model, SafetensorsSource(str(beside), [beside])) if beside.is_file() else model


class Writer:
    """The weights as transformers reads them, and the decoder of pictures in a file of its own."""

    def __init__(self, directory: pathlib.Path, tensors: dict[str, TensorInfo], most: int):
        self._decoder = {n for n in tensors if n.startswith("model.vqmodel.decoder.")}
        parts = [{n: t for n, t in tensors.items() if (n in self._decoder) == of} for of in (0, 1)]
        self._writers = [
            SafetensorsWriter(directory, parts[0], most),
            SafetensorsWriter(directory, parts[1], 2**62, DECODER),
        ]
        self.total_bytes = sum(w.total_bytes for w in self._writers)

    def write(self, name: str, array: np.ndarray) -> np.ndarray:
        return self._writers[name in self._decoder].write(name, array)

    def close(self) -> None:
        for writer in self._writers:
            writer.close()


def write(export: Export) -> dict[str, str]:
    """The files beside the weights."""
    c, directory = export.config, export.directory
    ours = tokenizer_lib.load(export.tokenizer)
    codes = codes_of_run(export.tokenizer, c.first_code, c.vq.num_embeddings)
    tell_padding(ours.vocab_size, c.text.vocab_size, export.notes)
    unit_codes_told(c, export.notes)
    vocabulary = {**ours.tokens, **codes.names}
    if ours.special.image_placeholder is not None:
        vocabulary[_PLACEHOLDER] = ours.special.image_placeholder
    write_object(directory / "config.json", hf_config(c, export.dtype, vocabulary, ours.special))
    write_object(directory / "generation_config.json", special_ids(ours.special))
    write_hf_tokenizer(export.tokenizer, directory, c.text.max_position_embeddings)
    size = c.vq.image_size
    write_object(
        directory / "preprocessor_config.json",
        {
            "image_processor_type": "ChameleonImageProcessor",
            "processor_class": "ChameleonProcessor",
            "do_resize": True,
            "resample": 3,  # bicubic
            "size": {"shortest_edge": size},
            "do_center_crop": True,
            "crop_size": {"height": size, "width": size},
            "do_rescale": True,
            "rescale_factor": 1 / 127.5,
            "do_normalize": True,
            "image_mean": [1.0, 1.0, 1.0],
            "image_std": [1.0, 1.0, 1.0],
            "do_convert_rgb": True,
        },
    )
    write_object(
        directory / "processor_config.json",
        {"processor_class": "ChameleonProcessor", "image_seq_length": c.vq.num_tokens},
    )
    return {}


def unit_codes_told(config: ChameleonConfig, notes: list[str]) -> None:
    if config.vq.unit_codes:
        notes.append(
            "image codes are compared by angle here, by distance there: rows of the codebook are "
            "written at length 1, with which both find the same"
        )


def hf_config(
    config: ChameleonConfig, dtype: str, vocabulary: dict[str, int], special: SpecialIds
) -> dict:
    """config.json.

    Raises:
      UserError: if that class cannot be of this shape.
    """
    text, q = config.text, config.vq
    check_decoder(config)
    plain_text = dataclasses.replace(text, qk_norm="none", norm_order="pre")
    decoder = {k: v for k, v in llama_json(plain_text, dtype).items() if k != "head_dim"}
    return {
        **decoder,
        **special_ids(special),
        "architectures": ["ChameleonForConditionalGeneration"],
        "model_type": "chameleon",
        "dtype": dtype,
        "swin_norm": text.norm_order == "post",
        "model_parallel_size": 1,  # of no meaning but for the conversion from Meta's release
        "image_token_id": special.image_placeholder,
        "vocabulary_map": vocabulary,
        "vq_config": {
            "model_type": "chameleon_vqgan",
            "embed_dim": q.embed_dim,
            "num_embeddings": q.num_embeddings,
            "double_latent": False,
            "latent_channels": q.latent_channels,
            "resolution": q.image_size,
            "in_channels": 3,
            "base_channels": q.base_channels,
            "channel_multiplier": list(q.channel_multiplier),
            "num_res_blocks": q.num_res_blocks,
            "attn_resolutions": [q.grid] if q.coarse_attention else None,
            "attn_type": "vanilla",
        },
    }


def check_decoder(config: ChameleonConfig) -> None:
    """Refuses a decoder that no release of Chameleon can be."""
    text = config.text
    for name, found, expected in (
        ("qk_norm", text.qk_norm, "layer_norm"),
        ("head_dim", text.head_dim, text.hidden_size // text.num_attention_heads),
    ):
        if found != expected:
            raise UserError(
                f"text.{name}", f"{found!r}", f"{expected!r}, as every Chameleon has it",
                "This model cannot be exported.",
            )  # fmt: skip
    check_vq_runs(config.vq, "image tokenizer")
