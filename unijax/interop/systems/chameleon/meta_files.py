"""What an export in the form of Meta's release is written with."""

import math
import pathlib
import shutil

import ml_dtypes
import numpy as np
import tokenizers
import yaml

from unijax.core.errors import UserError
from unijax.core.json_files import read_object, write_object
from unijax.data import tokenizer as tokenizer_lib
from unijax.data.hf_tokens import TOKENIZER_BYTES
from unijax.interop.hf_tokenizer import write_hf_tokenizer
from unijax.interop.interface import Export
from unijax.interop.source_tokenizer import tell_padding
from unijax.interop.systems.chameleon import meta
from unijax.interop.systems.chameleon.hf import check_decoder, unit_codes_told
from unijax.interop.systems.chameleon.vocabulary import Codes, codes_of_run, tokenizer_vocabulary
from unijax.interop.table import TensorInfo
from unijax.systems.chameleon import ChameleonConfig

# How that code finds marks: by these names (`chameleon/inference/vocab.py`).
_MARKS = {
    "bos": "<s>", "eos": "</s>", "pad": "<pad>", "boi": "<racm3:break>", "eoi": "<eoss>",
}  # fmt: skip
_NORMS = tuple(
    f"language_model/layers/self_attn/{n}_norm/{leaf}" for n in "qk" for leaf in ("scale", "bias")
)


def write(export: Export) -> dict[str, str]:
    """The files beside the weights."""
    c, text = export.config, export.config.text
    check_decoder(c)
    if text.rope_scaling or text.mrope_section or text.qkv_bias or text.tie_word_embeddings:
        raise UserError(
            "text", "rope_scaling, mrope_section, qkv_bias or tie_word_embeddings", "none of them",
            "This model cannot be exported.",
        )  # fmt: skip
    unit_codes_told(c, export.notes)
    files = meta.fewest_files(export.read(list(_NORMS)), text)
    model, place = export.directory / "models" / "model", export.directory / "tokenizer"
    model.mkdir(parents=True)
    place.mkdir()
    base = int(2 * 4 * text.hidden_size / 3)
    params = {
        "dim": text.hidden_size, "n_layers": text.num_hidden_layers,
        "n_heads": text.num_attention_heads, "n_kv_heads": text.num_key_value_heads,
        "vocab_size": text.vocab_size, "norm_eps": text.rms_norm_eps,
        "rope_theta": text.rope_theta, "qk_normalization": True,
        "swin_norm": text.norm_order == "post", "multiple_of": 256,
    }  # fmt: skip
    if 256 * -(-base // 256) != text.intermediate_size:
        # That code rounds a share of 8/3 widths up to a multiple.
        params["multiple_of"] = text.intermediate_size
        params["ffn_dim_multiplier"] = min(1.0, (text.intermediate_size - 0.5) / base)
    write_object(model / "params.json", {"model": params})
    write_object(model / "consolidate_params.json", {"model_parallel_size": files})
    (place / "vqgan.yaml").write_text(yaml.safe_dump(_vqgan(c)), encoding="utf-8")
    _tokenizer(export, place)
    return {"files of weights": f"{files}"}


def _vqgan(config: ChameleonConfig) -> dict:
    q = config.vq
    levels = {
        "double_z": False, "z_channels": q.latent_channels, "resolution": q.image_size,
        "in_channels": 3, "out_ch": 3, "ch": q.base_channels, "dropout": 0.0,
        "ch_mult": list(q.channel_multiplier), "num_res_blocks": q.num_res_blocks,
        "attn_resolutions": [q.grid] if q.coarse_attention else [],
    }  # fmt: skip
    params = {"embed_dim": q.embed_dim, "n_embed": q.num_embeddings, "ddconfig": levels}
    return {"model": {"params": params}}


def _tokenizer(export: Export, place: pathlib.Path) -> None:
    """text_tokenizer.json, with a name for every image code.

    Raises:
      UserError: if the ids of these names would be others than the model's, or that code cannot
        read the tokenizer.
    """
    c, ours = export.config, tokenizer_lib.load(export.tokenizer)
    tell_padding(ours.vocab_size, c.text.vocab_size, export.notes)
    codes = codes_of_run(export.tokenizer, c.first_code, c.vq.num_embeddings)
    write_hf_tokenizer(export.tokenizer, place, c.text.max_position_embeddings)
    file = place / "tokenizer.json"
    if not codes.names.items() <= tokenizer_vocabulary(file).items():
        library = tokenizers.Tokenizer.from_file(str(file))
        library.add_tokens([tokenizers.AddedToken(n, normalized=False) for n in codes.names])
        library.save(str(file))
        found = Codes.of(tokenizer_vocabulary(file), str(file))
        if found.first != c.first_code:
            raise UserError(
                str(export.tokenizer), f"{found.first} ids, and no names of image codes",
                f"as many ids as there are before image code 0, {c.first_code}",
                "Export this model with --format hf, which needs no such names.",
            )  # fmt: skip
    _whole_vocabulary(file)
    shutil.move(file, place / "text_tokenizer.json")
    if not np.array_equal(codes.ids, np.sort(codes.ids)):
        export.notes.append(
            "the code of that release draws the k-th least id of image codes as code k; the names "
            "of this tokenizer are in another order"
        )
    ids = {role: getattr(ours.special, role) for role in _MARKS}
    names = {role: "nothing" if i is None else ours.piece(i) for role, i in ids.items()}
    if other := [f"{names[r]} for {_MARKS[r]}" for r in _MARKS if names[r] != _MARKS[r]]:
        export.notes.append(
            f"the code of that release finds marks by their names; here are {', '.join(other)}"
        )


def _whole_vocabulary(file: pathlib.Path) -> None:
    """That code looks up every name in the vocabulary of the model, and puts the begin of sequence
    before a prompt itself."""
    content = read_object(file, TOKENIZER_BYTES)
    words = content["model"]["vocab"]
    if not isinstance(words, dict):
        raise UserError(
            "tokenizer", f"a model of the kind {content['model']['type']}", "one whose vocabulary "
            "has an id for each name, as BPE", "Export this model with --format hf.",
        )  # fmt: skip
    words.update({token["content"]: token["id"] for token in content["added_tokens"]})
    write_object(file, content | {"post_processor": None})


class Writer:
    """Torch files: of every tensor of the decoder each its part, and one of the image tokenizer.

    Tensors lie in a scratch file until all are there, so that no more than one is in memory.
    """

    def __init__(self, directory: pathlib.Path, tensors: dict[str, TensorInfo], most: int):
        del most  # the number of files is the model's
        self._count = meta.shards(directory)
        self._model = meta.model_directory(directory)
        self._vqgan = meta.tokenizer_directory(directory) / "vqgan.ckpt"
        self._frequencies = meta.rope_frequencies(directory)
        self._dtypes = {name: info.dtype for name, info in tensors.items()}
        self.total_bytes = sum(
            math.prod(info.shape) * info.dtype.itemsize for info in tensors.values()
        )
        free = shutil.disk_usage(directory).free
        if free < 2 * self.total_bytes:
            raise UserError(
                str(directory.parent), f"{free / 1e6:,.0f} MB free",
                f"room for {2 * self.total_bytes / 1e6:,.0f} MB of tensors, half of it for a while",
                "Free space or choose another place.",
            )  # fmt: skip
        self._scratch = directory / "scratch"
        self._scratch.mkdir()
        self._parts: dict[pathlib.Path, dict[str, np.memmap]] = {}

    def write(self, name: str, array: np.ndarray) -> np.ndarray:
        """Casts a tensor to its dtype, and keeps it; returns it."""
        with np.errstate(over="ignore"):  # what does not fit is for the caller to tell
            cast = np.ascontiguousarray(array, self._dtypes[name])
        if name.startswith(meta.VQ):
            self._keep(self._vqgan, name.removeprefix(meta.VQ), cast)
            return cast
        axis = meta.axis_of(name)
        for i in range(self._count):
            number = f".{i:02}" if self._count > 1 else ""
            file = self._model / f"consolidated{number}.pth"
            if axis == "heads":
                self._keep(file, name, cast[i])
            elif axis is None:
                self._keep(file, name, cast)
            else:
                self._keep(file, name, np.split(cast, self._count, axis=axis)[i])
        return cast

    def _keep(self, file: pathlib.Path, name: str, part: np.ndarray) -> None:
        content = self._parts.setdefault(file, {})
        scratch = self._scratch / f"{file.name}-{len(content)}"
        content[name] = np.memmap(scratch, part.dtype, "w+", shape=part.shape)
        content[name][...] = part
        content[name].flush()

    def close(self) -> None:
        """Writes the files."""
        import torch

        def tensor(x: np.ndarray) -> torch.Tensor:
            if x.dtype == ml_dtypes.bfloat16:
                return torch.from_numpy(x.view(np.int16)).view(torch.bfloat16)
            return torch.from_numpy(x)

        for file, parts in self._parts.items():
            content = {name: tensor(x) for name, x in parts.items()}
            if file == self._vqgan:
                content = {"state_dict": content}
            else:
                content["rope.freqs"] = tensor(self._frequencies)
            torch.save(content, file)
            del content
        self._parts.clear()
        shutil.rmtree(self._scratch)
