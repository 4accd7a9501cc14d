"""Adapters in peft's form: adapter_config.json, and adapter_model.safetensors beside it.

Keys and names were read in peft 0.21 (`tuners/lora/config.py`, `utils/save_and_load.py`). Names of
layers are those of a format of the system, as its export has them: what peft puts around a model
that was loaded from such an export.
"""

import dataclasses
import math
import pathlib
import re
import shutil
from collections.abc import Mapping
from typing import Any

import numpy as np

from unijax.core.errors import UserError
from unijax.core.files import atomic_directory
from unijax.core.json_files import quoted, read_object, write_object
from unijax.core.record import to_json
from unijax.interop import registry
from unijax.interop.exporting import Exported
from unijax.interop.importing import Imported
from unijax.interop.opening import abstract_params, config_of, existing_directory
from unijax.interop.safetensors_writer import SafetensorsWriter
from unijax.interop.sources import open_directory
from unijax.interop.table import LINEAR, Entry, Source, Table, TensorInfo, some
from unijax.train import base, checkpoint
from unijax.train.streaming import LazyArray, StoredParams, write_params

CONFIG, STEM = "adapter_config.json", "adapter_model"
_START = "base_model.model."
_MAX_BYTES = 2**40  # one file
# Of peft, what our adapters do not have: value by key where it is not used.
_OFF = {
    "peft_type": ("LORA",), "bias": ("none",), "use_dora": (False,), "modules_to_save": (None, []),
    "fan_in_fan_out": (False,), "lora_bias": (False,), "layer_replication": (None, []),
    "target_parameters": (None, []), "alora_invocation_tokens": (None,), "use_qalora": (False,),
    "trainable_token_indices": (None,), "exclude_modules": (None, []),
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Adapted:
    """A linear layer, or a stack of them, on both sides.

    Attributes:
      ours: its path.
      theirs: its name, with `{i}` for the layer of a stack.
      entry: of its kernel.
    """

    ours: str
    theirs: str
    entry: Entry


def _adaptable(table: Table) -> dict[str, Adapted]:
    """Linear layers by path; those of which the other side holds several in one are not there."""
    found = {}
    for entry in table.entries:
        layer, _, leaf = entry.ours[0].rpartition("/")
        if leaf == "kernel" and len(entry.ours) == 1 and entry.theirs.endswith(".weight"):
            found[layer] = Adapted(layer, entry.theirs.removesuffix(".weight"), entry)
    return found


def export_adapters(
    run_dir: str | pathlib.Path, out: str | pathlib.Path, format: str | None = None
) -> Exported:
    """Writes the adapters of a run: `PeftModel.from_pretrained(model, OUT)` loads them.

    Args:
      run_dir: a run directory, or one step in it.
      out: new or empty; it appears when it is whole.
      format: whose names layers have; by default the first of the system.

    Raises:
      UserError: if the run has no adapters, or one of a layer that the format has in another form.
    """
    stored = StoredParams(run_dir)
    system, config = config_of(stored.run, str(run_dir))
    foreign = registry.format_of(registry.interop(system), format, config)
    flat = stored.adapters()
    if not flat:
        raise UserError(
            str(run_dir), "a run without adapters", "one of a stage with `lora`",
            "Export it without --adapters.",
        )  # fmt: skip
    with atomic_directory(out) as directory:
        layers = _adaptable(foreign.table(config, directory))
        rules: dict[str, tuple[int, float, float]] = {}
        tensors: dict[str, np.ndarray] = {}
        for path in sorted(p.removesuffix("/lora_a") for p in flat if p.endswith("/lora_a")):
            if path not in layers:
                raise UserError(
                    str(run_dir), f"adapters of {path}",
                    f"layers that the format {foreign.name!r} has each by itself",
                    "Export the whole model, with the adapters merged.",
                )  # fmt: skip
            rules[_pattern(layers[path])] = _tensors(layers[path], flat, tensors)
        infos = {name: TensorInfo(x.shape, x.dtype) for name, x in tensors.items()}
        writer = SafetensorsWriter(directory, infos, _MAX_BYTES, STEM)
        for name, x in tensors.items():
            writer.write(name, x)
        writer.close()
        write_object(directory / CONFIG, _config(rules))
    return Exported(pathlib.Path(out), len(tensors), writer.total_bytes)


def _pattern(layer: Adapted) -> str:
    """A regular expression of its names."""
    return re.escape(layer.theirs).replace(r"\{i\}", r"\d+")


def _tensors(
    layer: Adapted, flat: Mapping[str, np.ndarray], tensors: dict[str, np.ndarray]
) -> tuple[int, float, float]:
    """Puts those of a layer into `tensors`; returns rank, alpha and dropout."""
    a, b, scale = (flat[f"{layer.ours}/lora_{name}"] for name in ("a", "b", "scale"))
    (transform,) = layer.entry.transforms
    count = len(a) if layer.entry.stacked else 1
    stacked = layer.entry.stacked
    for i in range(count):
        one_a, one_b = (a[i], b[i]) if stacked else (a, b)
        name = _START + layer.theirs.replace("{i}", str(i))
        tensors[f"{name}.lora_A.weight"] = np.ascontiguousarray(LINEAR.to_theirs(one_a))
        tensors[f"{name}.lora_B.weight"] = np.ascontiguousarray(transform.to_theirs(one_b))
    rank, scales = a.shape[-1], {float(x) for x in np.ravel(scale)}
    if len(scales) > 1:
        raise UserError(
            layer.ours, f"adapters of the scales {sorted(scales)}", "one for all layers",
            "Export the whole model, with the adapters merged.",
        )  # fmt: skip
    dropout = flat.get(f"{layer.ours}/lora_dropout", np.zeros(1))
    # As it was said, not as float32 has it.
    return rank, scales.pop() * rank, float(str(np.float32(np.ravel(dropout)[0])))


def _config(rules: Mapping[str, tuple[int, float, float]]) -> dict[str, Any]:
    rank, alpha, _ = next(iter(rules.values()))
    dropout = max(rule[2] for rule in rules.values())  # it has one for all
    others = {name: rule for name, rule in rules.items() if rule[:2] != (rank, alpha)}
    return {
        "peft_type": "LORA",
        "task_type": None,
        "base_model_name_or_path": None,
        "inference_mode": True,
        "r": rank,
        "lora_alpha": alpha,
        "lora_dropout": dropout,
        "bias": "none",
        "fan_in_fan_out": False,
        "modules_to_save": None,
        "use_rslora": False,
        "use_dora": False,
        "init_lora_weights": True,
        "target_modules": "|".join(f"(?:{name})" for name in rules),
        "rank_pattern": {name: rule[0] for name, rule in others.items()},
        "alpha_pattern": {name: rule[1] for name, rule in others.items()},
    }


def import_adapters(
    source: str | pathlib.Path, init_from: str | pathlib.Path, run_dir: str | pathlib.Path
) -> Imported:
    """peft's adapters into a new run directory, which stands on that of their base.

    Whoever reads it to sample, to export or to begin a stage gets kernels with the adapters folded
    in.

    Args:
      source: directory with adapter_config.json and the tensors beside it.
      init_from: run directory, or one step in it, of the model that they adapt.
      run_dir: new or empty.

    Raises:
      UserError: for adapters of another kind or of another base; nothing is written.
    """
    directory = existing_directory(source)
    said = _read_config(directory / CONFIG)
    weights = open_directory(directory, STEM)
    step_dir = checkpoint.step_directory(init_from)
    run = checkpoint.read_run(init_from)
    system, config = config_of(run, str(init_from))
    abstract = abstract_params(system, config)
    names = {name.removeprefix(_START): name for name in weights.tensors}
    found, left = {}, set(names)
    for foreign in registry.interop(system).formats:
        try:
            layers = _adaptable(foreign.table(config, directory))
        except UserError:  # one whose names hang on files that adapters do not have
            continue
        taken = {
            layer: _taken(layer, abstract[f"{layer.ours}/kernel"].shape, names)
            for layer in layers.values()
        }
        taken = {layer: of for layer, of in taken.items() if of}
        rest = set(names) - {name for of in taken.values() for pair in of.values() for name in pair}
        if len(rest) < len(left):
            found, left = taken, rest
    if left or not found:
        raise UserError(
            weights.where, f"adapters of {some(sorted(left)) or 'nothing'}",
            f"those of linear layers of the system {system!r}, in pairs",
            "Give the run directory that was imported from the model that they adapt.",
        )  # fmt: skip
    params: dict[str, np.ndarray] = {}
    for layer, of in found.items():
        params |= _stack(layer, of, abstract[f"{layer.ours}/kernel"].shape, names, weights, said)
    recorded = {"system": system, "model": to_json(config), "data": run["config"].get("data", {})}
    described = {"stage": "import", "config": recorded} | base.record(run_dir, step_dir)
    lazy = {p: LazyArray(x.shape, x.dtype, lambda x=x: x) for p, x in sorted(params.items())}
    with atomic_directory(run_dir) as temporary:
        tokenizer = step_dir.parent.parent / "tokenizer"
        if tokenizer.is_dir():
            shutil.copytree(tokenizer, temporary / "tokenizer")
        write_params(temporary, lazy, described)
    numbers = sum(math.prod(x.shape) for x in params.values())
    return Imported(pathlib.Path(run_dir), config, numbers)


def _read_config(path: pathlib.Path) -> dict[str, Any]:
    said = read_object(path)
    for key, allowed in _OFF.items():
        if key in said and said[key] not in allowed:
            raise UserError(
                f"{path}: {key}", quoted(said[key]), f"{allowed[0]!r}: adapters that are sums of "
                "two products, of linear layers", "Merge them into the model with peft, and import "
                "that.",
            )  # fmt: skip
    for key in ("r", "lora_alpha"):
        if isinstance(said.get(key), bool) or not isinstance(said.get(key), int | float):
            found = quoted(said.get(key))
            raise UserError(f"{path}: {key}", found, "a number", "Restore the file.")
    for key in ("rank_pattern", "alpha_pattern"):
        if not isinstance(said.get(key) or {}, dict):
            raise UserError(f"{path}: {key}", quoted(said[key]), "an object", "Restore the file.")
    return said


def _taken(
    layer: Adapted, shape: tuple[int, ...], names: Mapping[str, str]
) -> dict[int, tuple[str, str]]:
    """Of every layer of a stack that has an adapter, the names of its A and B."""
    found = {}
    for i in range(shape[0] if layer.entry.stacked else 1):
        module = layer.theirs.replace("{i}", str(i))
        pair = f"{module}.lora_A.weight", f"{module}.lora_B.weight"
        if pair[0] in names and pair[1] in names:
            found[i] = pair
    return found


def _stack(
    layer: Adapted,
    of: Mapping[int, tuple[str, str]],
    shape: tuple[int, ...],
    names: Mapping[str, str],
    weights: Source,
    said: Mapping[str, Any],
) -> dict[str, np.ndarray]:
    """Leaves of a layer, or of a stack; a layer of it without an adapter gets one of zeros."""
    into, out = shape[-2:]
    (transform,) = layer.entry.transforms
    rank = max(weights.tensors[names[a]].shape[0] for a, _ in of.values())
    count = shape[0] if layer.entry.stacked else 1
    a = np.zeros((count, into, rank), np.float32)
    b, scale = np.zeros((count, rank, out), np.float32), np.zeros(count, np.float32)
    for i, pair in of.items():
        shapes = [tuple(weights.tensors[names[name]].shape) for name in pair]
        r = shapes[0][0]
        if shapes != [(r, into), (out, r)]:
            raise UserError(
                weights.where, f"{pair[0]} {shapes[0]} and {pair[1]} {shapes[1]}",
                f"(r, {into}) and ({out}, r), as the layer of the base has them",
                "Give the run directory that was imported from the model that they adapt.",
            )  # fmt: skip
        one_a, one_b = (np.asarray(weights.read(names[name]), np.float32) for name in pair)
        a[i, :, :r], b[i, :r] = LINEAR.to_ours(one_a), transform.to_ours(one_b)
        module = pair[0].removesuffix(".lora_A.weight")
        alpha = float(_of_pattern(said.get("alpha_pattern"), module, said["lora_alpha"]))
        scale[i] = alpha / (math.sqrt(r) if said.get("use_rslora") else r)
    leaves = {"lora_a": a, "lora_b": b, "lora_scale": scale}
    if not layer.entry.stacked:
        leaves = {name: x[0] for name, x in leaves.items()}
    return {f"{layer.ours}/{name}": x for name, x in leaves.items()}


def _of_pattern(patterns: Mapping[str, Any] | None, module: str, otherwise: Any) -> Any:
    """As peft finds it: the first key that ends the module's name."""
    for pattern, value in (patterns or {}).items():
        if re.match(rf"(.*\.)?({pattern})$", module):
            return value
    return otherwise
