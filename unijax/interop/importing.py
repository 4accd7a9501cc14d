"""Foreign checkpoints into run directories that training, sampling and export start from.

Tensors keep the dtype they are stored in. They are read, laid out anew and written one parameter at
a time, so that a checkpoint may be larger than memory.
"""

import dataclasses
import functools
import pathlib

import flax.linen as nn
import jax
import numpy as np

from unijax.core import tree
from unijax.core.errors import UserError
from unijax.core.files import atomic_directory
from unijax.core.json_files import shown
from unijax.data.templates import TEMPLATES
from unijax.interop import config_parts, configs, formats
from unijax.interop.model_card import licence_of, name_of
from unijax.interop.opening import (
    FIX,
    abstract_params,
    check_same,
    existing_directory,
    kind_of,
    open_model,
    untie,
)
from unijax.interop.source_processor import by_tokens, read_processor
from unijax.interop.source_tokenizer import import_tokenizer
from unijax.interop.sources import SafetensorsSource, TorchSource, open_directory
from unijax.interop.table import (
    Shape,
    Source,
    Table,
    check_coverage,
    count_not_finite,
    read_leaf,
    some,
)
from unijax.systems.janus import Janus, JanusConfig
from unijax.train import origin
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
      template: of conversations, recorded for sampling; by default what the chat template or
        sft_format of the source is, else Janus-Pro's where its roles are tokens.

    Raises:
      UserError: for anything missing, unexpected, damaged or of another kind; nothing is written.
    """
    _check_template(template)
    model = open_model(source, format)
    config, notes = model.config, list(model.notes)
    shapes = {p: a.shape for p, a in abstract_params(config).items()}
    wrong: list[str] = []
    params = _lazy(model.table, model.weights, shapes, wrong)
    with atomic_directory(run_dir) as temporary:
        place, rows = pathlib.Path(tokenizer or source), config.text.vocab_size
        ours = import_tokenizer(place, temporary / TOKENIZER, rows, notes)
        done = read_processor(model.directory, model.format, config, ours, template, notes)
        licence, files = licence_of(model.directory)
        came = {"imported": name_of(model.directory), "format": model.format}
        origin.write(temporary, origin.Origin((came,), licence, files))
        _write(temporary, config, params, dataclasses.asdict(done))
    return _imported(run_dir, config, params, notes, wrong)


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
    _check_template(template)
    abstract = abstract_params(config)
    shapes = {p: a.shape for p, a in abstract.items()}
    params: dict[str, LazyArray] = {}
    notes: list[str] = []
    wrong: list[str] = []

    def add(table: Table, weights: Source) -> None:
        own = {p: shapes[p] for e in table.entries for p in e.ours}
        check_coverage(table, own, weights, FIX)
        params.update(_lazy(table, weights, own, wrong))

    if llama is not None:
        path = existing_directory(llama)
        values = config_parts.read_config(path)
        found = config_parts.llama_config(values, str(path / "config.json"), notes)
        check_same(str(path), found, config.text, ignore=("max_position_embeddings",))
        table = formats.llama_part()
        weights, note = untie(open_directory(path), path, table)
        notes += note
        add(table, weights)
    if siglip is not None:
        path = existing_directory(siglip)
        found = config_parts.siglip_config(path, notes)
        check_same(str(path), found, config.vision, ignore=("hidden_act", "features"))
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
    with atomic_directory(run_dir) as temporary:
        if where is None:
            notes.append("no tokenizer was given: sampling and export will need one")
            roles = "janus_pro"
        else:
            place, rows = pathlib.Path(where), config.text.vocab_size
            roles, _ = by_tokens(import_tokenizer(place, temporary / TOKENIZER, rows, notes))
        _write(temporary, config, params, {"template": template or roles})
    return _imported(run_dir, config, params, notes, wrong)


def _vq_file(path: pathlib.Path) -> Source:
    if (found := kind_of(path)) != "a file":
        raise UserError(shown(str(path)), found, "a file of weights", "Correct the path.")
    if path.suffix == ".safetensors":
        return SafetensorsSource(str(path), [path])
    return TorchSource(str(path), [path], key="model")


def _lazy(
    table: Table, source: Source, shapes: dict[str, Shape], wrong: list[str]
) -> dict[str, LazyArray]:
    """Parameters by path; those that hold NaN are told in `wrong` as they are read."""

    def load(path: str, shape: Shape) -> np.ndarray:
        array = read_leaf(table, source, path, shape)
        if count := count_not_finite(array):
            name = table.entry(path)[0].theirs
            wrong.append(f"{count:,} of {array.size:,} in {name}")
        return array

    lazy = {}
    for path, shape in shapes.items():
        entry, _ = table.entry(path)
        dtype = source.tensors[entry.theirs.replace("{i}", "0")].dtype
        lazy[path] = LazyArray(tuple(shape), dtype, functools.partial(load, path, shape))
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


def _check_template(template: str | None) -> None:
    if template is not None and template not in TEMPLATES:
        raise UserError("template", repr(template), f"one of {sorted(TEMPLATES)}", "Correct it.")


def _write(
    directory: pathlib.Path, config: JanusConfig, params: dict[str, LazyArray], data: dict
) -> None:
    """A run directory at step 0."""
    recorded = {"system": "janus", "model": configs.to_json(config), "data": data}
    write_params(directory, dict(sorted(params.items())), {"stage": "import", "config": recorded})


def _imported(
    run_dir: str | pathlib.Path,
    config: JanusConfig,
    params: dict[str, LazyArray],
    notes: list[str],
    wrong: list[str],
) -> Imported:
    if wrong:
        notes.append(f"numbers that are NaN or infinite: {some(wrong)}")
    count = sum(int(np.prod(p.shape)) for p in params.values())
    return Imported(pathlib.Path(run_dir), config, count, tuple(notes))
