"""Meta's release of Chameleon: `models/SIZE/` with shards of weights, and `tokenizer/`.

Names and layouts were read in facebookresearch/chameleon (`chameleon/inference/transformer.py`,
`loader.py`, `vqgan.py`). Weights are in as many files as the model was trained on devices that
share every matrix. Queries, keys and values are three matrices or one (`wqkv`), and so are the two
of SwiGLU (`w13`); rotary pairs are neighbouring channels; the norms of queries and keys have one
scale for all heads of a file, here one for each head.
"""

import pathlib
import re
from typing import Any

import numpy as np
import yaml

from unijax.core.errors import UserError
from unijax.core.json_files import read_object, shown
from unijax.interop.config_parts import check_vq_runs
from unijax.interop.parts import llama
from unijax.interop.sections import BLOCKS, LAYERS, ROWS, SIDE, WIDTH, Section
from unijax.interop.sources import Together, TorchSource
from unijax.interop.systems.chameleon.hf import image_tokenizer
from unijax.interop.systems.chameleon.vocabulary import Codes, tokenizer_vocabulary
from unijax.interop.table import Entry, Source, Table, TensorInfo, Transform, rotary
from unijax.models.llama import LlamaConfig
from unijax.models.vqgan import VQConfig
from unijax.systems.chameleon import ChameleonConfig

VQ = "vqgan."  # before the names of the image tokenizer, which has a file of its own
_POSITIONS = 4096  # of the training of both sizes; no file says it
# Their names of ours (`parts.llama`), of the axis along which files hold a part: None for a copy.
_NAMES = {
    "embed_tokens": ("tok_embeddings", 1), "lm_head": ("output", 0), "norm": ("norm", None),
    "input_layernorm": ("attention_norm", None), "post_attention_layernorm": ("ffn_norm", None),
    "self_attn.q_proj": ("attention.wq", 0), "self_attn.k_proj": ("attention.wk", 0),
    "self_attn.v_proj": ("attention.wv", 0), "self_attn.o_proj": ("attention.wo", 1),
    "self_attn.q_norm": ("attention.q_normalization", "heads"),
    "self_attn.k_norm": ("attention.k_normalization", "heads"),
    "mlp.gate_proj": ("feed_forward.w1", 0), "mlp.up_proj": ("feed_forward.w3", 0),
    "mlp.down_proj": ("feed_forward.w2", 1),
}  # fmt: skip
_AXES = dict(_NAMES.values())
_FUSED = {"attention.wqkv": ("wq", "wk", "wv"), "feed_forward.w13": ("w1", "w3")}


def model_directory(directory: pathlib.Path) -> pathlib.Path | None:
    """`models/SIZE` of a release, which may be given itself; None where there is none.

    Raises:
      UserError: if there are several.
    """
    if (directory / "params.json").is_file():
        return directory
    found = [file.parent for file in sorted(directory.glob("models/*/params.json"))]
    if len(found) > 1:
        raise UserError(
            str(directory / "models"), shown([place.name for place in found]), "one size",
            f"Give the folder of one, as {found[0]}.",
        )  # fmt: skip
    return found[0] if found else None


def tokenizer_directory(directory: pathlib.Path) -> pathlib.Path:
    """The folder beside `models/`."""
    model = model_directory(directory)
    return (directory if model != directory else directory.parent.parent) / "tokenizer"


def is_release(directory: pathlib.Path) -> bool:
    """Whether a directory is one; Llama's releases have no image tokenizer beside the weights."""
    if model_directory(directory) is None:
        return False
    return (tokenizer_directory(directory) / "vqgan.yaml").is_file()


def text_tokenizer(directory: pathlib.Path) -> pathlib.Path:
    return tokenizer_directory(directory) / "text_tokenizer.json"


def _params(directory: pathlib.Path) -> Section:
    model = model_directory(directory)
    whole = read_object(model / "params.json")
    inner = whole.get("model")
    shards = read_object(model / "consolidate_params.json")
    values = {**whole, **(inner if isinstance(inner, dict) else {}), **shards}
    defaults = {
        "model_parallel_size": 1, "norm_eps": 1e-5, "rope_theta": 1e4, "multiple_of": 256,
        "ffn_dim_multiplier": None, "n_kv_heads": None, "qk_normalization": False,
        "swin_norm": False,
    }  # fmt: skip
    return Section(str(model / "params.json"), values, defaults)


def shards(directory: pathlib.Path) -> int:
    """In how many files the weights are."""
    return _params(directory).whole("model_parallel_size", 1024)


def config(directory: pathlib.Path, notes: list[str], like: Any = None) -> ChameleonConfig:
    """Sizes of a release."""
    del notes, like
    p = _params(directory)
    p.require("qk_normalization", True)
    p.require("swin_norm", True, False)
    width, heads = p.whole("dim", WIDTH), p.whole("n_heads", WIDTH)
    kv_heads = heads if p.get("n_kv_heads") is None else p.whole("n_kv_heads", WIDTH)
    inner = int(2 * 4 * width / 3)
    if p.get("ffn_dim_multiplier") is not None:
        inner = int(p.real("ffn_dim_multiplier", WIDTH) * inner)
    multiple = p.whole("multiple_of", WIDTH)
    vocabulary = tokenizer_vocabulary(text_tokenizer(directory))
    codes = Codes.of(vocabulary, str(text_tokenizer(directory)))
    rows = p.get("vocab_size")
    if type(rows) is not int or rows < 1:  # the release leaves it to the tokenizer
        rows = max(i for i in vocabulary.values() if type(i) is int) + 1
    text = LlamaConfig(
        rows, width, multiple * -(-inner // multiple), p.whole("n_layers", LAYERS), heads, kv_heads,
        max(width // heads, 1), p.real("norm_eps", 1), p.real("rope_theta", 1e30), _POSITIONS,
        qk_norm="layer_norm", norm_order="post" if p.get("swin_norm") else "pre",
    )  # fmt: skip
    return ChameleonConfig(text, _vq_config(directory, len(codes.ids)), codes.first)


def _vq_config(directory: pathlib.Path, codes: int) -> VQConfig:
    path = tokenizer_directory(directory) / "vqgan.yaml"
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
        params = content["model"]["params"]
        levels = params["ddconfig"]
    except (OSError, yaml.YAMLError, UnicodeDecodeError, KeyError, TypeError) as e:
        found = shown(str(e), 200)
        raise UserError(str(path), found, "the config of a VQGAN", "Fetch it again.") from None
    p, d = Section(f"{path}: params", params), Section(f"{path}: ddconfig", levels)
    p.require("n_embed", codes)
    d.require("double_z", False)
    d.require("in_channels", 3)
    d.require("out_ch", 3)
    multiplier, size = d.wholes("ch_mult", 64, 12), d.whole("resolution", SIDE)
    grid = size // 2 ** (len(multiplier) - 1)
    d.require("attn_resolutions", [], [grid])
    found = VQConfig(
        size, d.whole("ch", WIDTH), multiplier, d.whole("num_res_blocks", BLOCKS, least=0),
        d.whole("z_channels", WIDTH), p.whole("embed_dim", WIDTH), p.whole("n_embed", ROWS),
        coarse_attention=bool(d.get("attn_resolutions")), unit_codes=False,
    )  # fmt: skip
    check_vq_runs(found, str(path))
    return found


def table(config: ChameleonConfig, directory: pathlib.Path) -> Table:
    """Of a release whose small files are there."""
    text, files = config.text, shards(directory)
    codes = Codes.of(tokenizer_vocabulary(text_tokenizer(directory)), str(directory))
    entries = []
    for entry in llama(text, "language_model", "model", "lm_head.weight"):
        entry = Entry(entry.ours, _their_name(entry.theirs), entry.transform)
        if entry.theirs in ("tok_embeddings.weight", "output.weight"):
            entry = codes.permuted(entry)
        for letter, heads in (("q", text.num_attention_heads), ("k", text.num_key_value_heads)):
            if f".w{letter}." in entry.theirs:
                entry = Entry(entry.ours, entry.theirs, rotary(heads)[0])
            if f".{letter}_normalization." in entry.theirs:
                entry = Entry(entry.ours, entry.theirs, _of_files(heads, files))
        entries.append(entry)
    entries += image_tokenizer(config.vq, VQ)
    return Table(tuple(entries), dropped=(r"rope\.freqs", rf"{re.escape(VQ)}loss\..*"))


def _their_name(name: str) -> str:
    *path, leaf = name.removeprefix("model.").split(".")
    layer = path[:2] if path[0] == "layers" else []
    return ".".join([*layer, _NAMES[".".join(path[len(layer) :])][0], leaf])


def _of_files(heads: int, files: int) -> Transform:
    """Scales or biases [files, head_dim] of neighbouring pairs, and ours [heads, head_dim]."""
    pairs = rotary(1)[1]
    return Transform(
        lambda x: np.repeat(pairs.to_ours(x), heads // files, axis=0),
        lambda x: pairs.to_theirs(x[:: heads // files]),
    )


def fewest_files(params: dict[str, np.ndarray], config: LlamaConfig) -> int:
    """The least number of files whose heads have norms in common.

    Args:
      params: scales and biases [layers, heads, head_dim] of queries and keys.
    """
    for files in range(1, config.num_key_value_heads + 1):
        shared = (config.num_key_value_heads, config.vocab_size, config.intermediate_size)
        if any(size % files for size in shared):
            continue
        of_files = [x.reshape(x.shape[0], files, -1, x.shape[-1]) for x in params.values()]
        if all(np.array_equal(x, np.broadcast_to(x[:, :, :1], x.shape)) for x in of_files):
            return files
    raise UserError(
        "norms of queries", "one for every head", "one for all heads of a file, of which there are "
        f"at most {config.num_key_value_heads}", "Export this model with --format hf.",
    )  # fmt: skip


def rope_frequencies(directory: pathlib.Path) -> np.ndarray:
    """A tensor that every file must have, and that no code reads."""
    p = _params(directory)
    head_dim = p.whole("dim", WIDTH) // p.whole("n_heads", WIDTH)
    exponent = np.arange(0, head_dim, 2, dtype=np.float32) / head_dim
    return (p.real("rope_theta", 1e30) ** -exponent).astype(np.float32)


class MetaSource:
    """The tensors of all files of a release's decoder, whole and apart."""

    def __init__(self, directory: pathlib.Path):
        model, count, p = model_directory(directory), shards(directory), _params(directory)
        files = [model / f"consolidated.{i:02}.pth" for i in range(count)]
        if count == 1 and (model / "consolidated.pth").is_file():
            files = [model / "consolidated.pth"]
        if missing := [f.name for f in files if not f.is_file()]:
            raise UserError(
                str(model), f"{len(missing)} of {count} shards missing ({shown(missing[:5])})",
                "as many files as consolidate_params.json says", "Fetch them.",
            )  # fmt: skip
        self.where = str(model)
        self._files = [TorchSource(str(file), [file]) for file in files]
        self._part: dict[str, tuple[str, slice]] = {}
        self.tensors: dict[str, TensorInfo] = {}
        heads = p.whole("n_heads", WIDTH)
        kv_heads = heads if p.get("n_kv_heads") is None else p.whole("n_kv_heads", WIDTH)
        shares = {"attention.wqkv": (heads, kv_heads, kv_heads), "feed_forward.w13": (1, 1)}
        for name, info in self._files[0].tensors.items():
            if any(f.tensors.get(name) != info for f in self._files):
                raise UserError(
                    self.where, f"{shown(name)} in some files alone, or of other shapes there",
                    "the same tensors in every file", "Fetch them again.",
                )  # fmt: skip
            fused = next((key for key in _FUSED if f"{key}." in name), None)
            if fused is None:
                self._add(name, name, slice(None), info)
                continue
            unit = info.shape[0] / sum(shares[fused])
            ends = [round(unit * sum(shares[fused][:n])) for n in range(len(_FUSED[fused]) + 1)]
            for part, start, end in zip(_FUSED[fused], ends, ends[1:]):
                own = name.replace(fused, f"{fused.split('.')[0]}.{part}")
                shape = (end - start, *info.shape[1:])
                self._add(own, name, slice(start, end), TensorInfo(shape, info.dtype))

    def _add(self, name: str, stored: str, part: slice, info: TensorInfo) -> None:
        axis, shape = axis_of(name), list(info.shape)
        if axis == "heads":
            shape = [len(self._files), *shape]
        elif axis is not None and len(shape) > axis:
            shape[axis] *= len(self._files)
        self._part[name] = (stored, part)
        self.tensors[name] = TensorInfo(tuple(shape), info.dtype)

    def read(self, name: str) -> np.ndarray:
        """A copy of the tensor."""
        stored, part = self._part[name]
        pieces = [file.read(stored)[part] for file in self._files]
        axis = axis_of(name)
        if axis == "heads":
            return np.stack(pieces)
        if axis is not None:
            return np.concatenate(pieces, axis=axis)
        if all(np.array_equal(x, pieces[0]) for x in pieces):
            return pieces[0]
        mean = np.mean([x.astype(np.float32) for x in pieces], axis=0)
        return mean.astype(pieces[0].dtype)


def axis_of(name: str) -> int | str | None:
    """Along which files hold a part of a tensor."""
    return next((axis for word, axis in _AXES.items() if f"{word}." in f".{name}"), None)


def weights(directory: pathlib.Path) -> Source:
    """Of the decoder and of the image tokenizer."""
    file = tokenizer_directory(directory) / "vqgan.ckpt"
    if not file.is_file():
        raise UserError(str(file), "no such file", "the image tokenizer", "Fetch it.")
    stored = TorchSource(str(file), [file], key="state_dict")
    return Together(MetaSource(directory), _Renamed(stored))


class _Renamed:
    """A source whose names begin with something."""

    def __init__(self, source: Source):
        self.where, self._source = source.where, source
        self.tensors = {VQ + name: info for name, info in source.tensors.items()}

    def read(self, name: str) -> np.ndarray:
        return self._source.read(name.removeprefix(VQ))
