"""Foreign checkpoints into run directories that training, sampling and export start from.

Tensors keep the dtype they are stored in. They are read, laid out anew and written one parameter at
a time, so that a checkpoint may be larger than memory.
"""

import dataclasses
import functools
import pathlib
from collections.abc import Mapping

import flax.linen as nn
import jax
import numpy as np

from unijax.core import tree
from unijax.core.errors import UserError
from unijax.core.files import atomic_directory
from unijax.interop import configs, formats
from unijax.interop.source_tokenizer import import_tokenizer
from unijax.interop.sources import SafetensorsSource, TorchSource, open_directory
from unijax.interop.table import Shape, Source, Table, TensorInfo, check_coverage, read_leaf
from unijax.systems.janus import Janus, JanusConfig
from unijax.train.streaming import LazyArray, write_params

TOKENIZER = "tokenizer"  # folder of a run directory


@dataclasses.dataclass(frozen=True)
class Imported:
    """What an import did.

    Attributes:
      run_dir: where it is.
      config: sizes of the model.
      parameters: how many numbers were written.
      notes: what the user should know.
    """

    run_dir: pathlib.Path
    config: JanusConfig
    parameters: int
    notes: tuple[str, ...] = ()

    def __str__(self) -> str:
        lines = [f"{self.parameters:,} parameters imported into {self.run_dir}"]
        return "\n".join(lines + [f"note: {note}" for note in self.notes])


@functools.cache
def abstract_params(config: JanusConfig) -> dict[str, jax.ShapeDtypeStruct]:
    """Shape and dtype of every parameter by path. Nothing is allocated."""
    boxed = jax.eval_shape(Janus(config).init, jax.random.key(0))
    return tree.flatten(nn.unbox(boxed))


def import_checkpoint(
    source: str | pathlib.Path,
    run_dir: str | pathlib.Path,
    format: str | None = None,
    tokenizer: str | pathlib.Path | None = None,
    template: str | None = None,
) -> Imported:
    """A whole Janus into a new run directory, at step 0.

    Args:
      source: directory with config.json, weights and tokenizer files.
      run_dir: new or empty.
      format: "hf" or "deepseek"; by default what config.json says.
      tokenizer: directory to take the tokenizer from, if not `source`.
      template: of conversations, recorded for sampling; by default Janus-Pro's where its roles are
        tokens, else Janus's.

    Raises:
      UserError: for anything missing, unexpected, damaged or of another kind; nothing is written.
    """
    source = _directory(source)
    format = configs.detect_format(source) if format is None else format
    config = {"hf": configs.from_hf, "deepseek": configs.from_deepseek}[format](source)
    table = formats.FORMATS[format](config)
    weights, notes = untie(open_directory(source), source, table)
    shapes = {p: a.shape for p, a in abstract_params(config).items()}
    check_coverage(table, shapes, weights, _FIX)
    params = _lazy(table, weights, shapes)
    return _write(run_dir, config, params, pathlib.Path(tokenizer or source), template, notes)


def import_parts(
    run_dir: str | pathlib.Path,
    config: JanusConfig,
    llama: str | pathlib.Path | None = None,
    siglip: str | pathlib.Path | None = None,
    vq: str | pathlib.Path | None = None,
    tokenizer: str | pathlib.Path | None = None,
    template: str | None = None,
    seed: int = 0,
) -> Imported:
    """The trained parts that stage 1 starts from into a new run directory; the rest is fresh.

    The activation of the tower is the config's: Janus runs SigLIP's weights with the exact GELU.

    Args:
      run_dir: new or empty.
      config: the system; each part must have its sizes.
      llama: directory of a transformers `LlamaForCausalLM`.
      siglip: directory of a transformers `SiglipModel` or `SiglipVisionModel`.
      vq: LlamaGen's tokenizer: a torch file with the key "model", or a safetensors file.
      tokenizer: directory of the tokenizer; by default `llama`.
      template: as in `import_checkpoint`.
      seed: of what is fresh, in float32.

    Raises:
      UserError: as `import_checkpoint`.
    """
    abstract = abstract_params(config)
    shapes = {p: a.shape for p, a in abstract.items()}
    params: dict[str, LazyArray] = {}
    notes = []

    def add(table: Table, weights: Source) -> None:
        own = {p: shapes[p] for e in table.entries for p in e.ours}
        check_coverage(table, own, weights, _FIX)
        params.update(_lazy(table, weights, own))

    if llama is not None:
        path = _directory(llama)
        values = configs.read_json(path / "config.json")
        found = configs.llama_config(values, str(path / "config.json"))
        _same(str(path), found, config.text, ignore=("max_position_embeddings",))
        table = formats.llama_part()
        weights, note = untie(open_directory(path), path, table)
        notes += note
        add(table, weights)
    if siglip is not None:
        path = _directory(siglip)
        found = configs.siglip_config(path)
        _same(str(path), found, config.vision, ignore=("hidden_act", "features"))
        if found.hidden_act != config.vision.hidden_act:
            notes.append(
                f"{path} was trained with {found.hidden_act}; the config says "
                f"{config.vision.hidden_act}, as released Janus does"
            )
        weights = open_directory(path)
        prefix = (
            "vision_model." if any(n.startswith("vision_model.") for n in weights.tensors) else ""
        )
        add(formats.siglip_part(config.vision, prefix), weights)
    if vq is not None:
        add(formats.vq_part(config.vq), _vq_file(pathlib.Path(vq)))
    params |= _fresh(config, sorted(shapes.keys() - params.keys()), abstract, seed)
    where = tokenizer or llama
    return _write(
        run_dir, config, params, None if where is None else pathlib.Path(where), template, notes
    )


_FIX = "Import a checkpoint of the kind and size that its config.json says."


def _directory(path: str | pathlib.Path) -> pathlib.Path:
    path = pathlib.Path(path)
    if not path.is_dir():
        found = "a file" if path.exists() else "nothing"
        raise UserError(str(path), found, "a model directory", "Correct the path.")
    return path


class _Alias:
    """A source in which one tensor also goes by another name."""

    def __init__(self, source: Source, name: str, alias: str):
        self.where = source.where
        self.tensors: Mapping[str, TensorInfo] = {**source.tensors, alias: source.tensors[name]}
        self._source, self._name, self._alias = source, name, alias

    def read(self, name: str) -> np.ndarray:
        return self._source.read(self._name if name == self._alias else name)


def untie(weights: Source, directory: pathlib.Path, table: Table) -> tuple[Source, list[str]]:
    """A source that has a head of its own, as our model does, and what is to be said of it.

    Released Janus is untied, and its head is in the file. Configs do not tell: transformers'
    JanusConfig is tied unless its top level says otherwise. So what the file holds decides, and the
    embedding stands in for a missing head only where the config says that they are one.
    """
    embedding, head = (
        table.entry(f"language_model/{leaf}")[0].theirs
        for leaf in ("embed_tokens/embedding", "lm_head/kernel")
    )
    if head in weights.tensors or embedding not in weights.tensors:
        return weights, []
    config = configs.read_json(directory / "config.json")
    default = config.get("model_type") == "janus"
    if not config.get("tie_word_embeddings", default):
        return weights, []  # the head is missing, which the check of coverage reports
    note = f"{head} is tied to {embedding} in {directory}; here it is a parameter of its own"
    return _Alias(weights, embedding, head), [note]


def _same(where: str, found: object, expected: object, ignore: tuple[str, ...]) -> None:
    """Raises UserError naming the sizes in which a part differs from the config."""
    other = [
        f"{f.name}={getattr(found, f.name)} instead of {getattr(expected, f.name)}"
        for f in dataclasses.fields(expected)
        if f.name not in ignore and getattr(found, f.name) != getattr(expected, f.name)
    ]
    if other:
        raise UserError(
            where, ", ".join(other), "the sizes of the config", "Use the part that belongs to it."
        )


def _vq_file(path: pathlib.Path) -> Source:
    if not path.is_file():
        found = "a directory" if path.is_dir() else "nothing"
        raise UserError(str(path), found, "a file of weights", "Correct the path.")
    if path.suffix == ".safetensors":
        return SafetensorsSource(str(path), [path])
    return TorchSource(str(path), [path], key="model")


def _lazy(table: Table, source: Source, shapes: dict[str, Shape]) -> dict[str, LazyArray]:
    lazy = {}
    for path, shape in shapes.items():
        entry, _ = table.entry(path)
        dtype = source.tensors[entry.theirs.replace("{i}", "0")].dtype
        lazy[path] = LazyArray(
            tuple(shape), dtype, lambda p=path, s=shape: read_leaf(table, source, p, s)
        )
    return lazy


def _fresh(
    config: JanusConfig, paths: list[str], abstract: dict[str, jax.ShapeDtypeStruct], seed: int
) -> dict[str, LazyArray]:
    """Parameters at random, as training would start them. Those not asked for are never made."""

    @jax.jit
    def init(key: jax.Array) -> dict[str, jax.Array]:
        params = tree.flatten(nn.unbox(Janus(config).init(key)))
        return {p: params[p] for p in paths}

    def load(path: str) -> np.ndarray:
        if not made:
            made.update(init(jax.random.key(seed)))
        return np.asarray(made[path])

    made: dict[str, jax.Array] = {}
    return {
        p: LazyArray(abstract[p].shape, np.dtype(abstract[p].dtype), lambda p=p: load(p))
        for p in paths
    }


def _write(
    run_dir: str | pathlib.Path,
    config: JanusConfig,
    params: dict[str, LazyArray],
    tokenizer: pathlib.Path | None,
    template: str | None,
    notes: list[str],
) -> Imported:
    with atomic_directory(run_dir) as temporary:
        if tokenizer is None:
            notes = [*notes, "no tokenizer was given: sampling and export will need one"]
        else:
            roles = import_tokenizer(tokenizer, temporary / TOKENIZER, config.text.vocab_size)
            template = roles if template is None else template
        run = {
            "stage": "import",
            "config": {
                "system": "janus",
                "model": configs.to_json(config),
                "data": {"template": template or "janus_pro"},
            },
        }
        write_params(temporary, dict(sorted(params.items())), run)
    count = sum(int(np.prod(p.shape)) for p in params.values())
    return Imported(pathlib.Path(run_dir), config, count, tuple(notes))
