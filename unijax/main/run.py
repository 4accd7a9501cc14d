"""A resolved run: what a config file says, as dataclasses, and the system that it names."""

import dataclasses
import re
from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp

from unijax.core.errors import UserError
from unijax.core.paths import is_address
from unijax.core.record import added, build, to_json
from unijax.core.system import System
from unijax.data.config import DataConfig, GroupConfig, SourceConfig
from unijax.data.pictures import PictureConfig
from unijax.main.config import override
from unijax.nn.stack import REMAT_POLICIES
from unijax.parallel.sharding import MeshConfig
from unijax.systems.registry import recipe
from unijax.train import mup
from unijax.train.loop import LoopConfig
from unijax.train.lora import adapted
from unijax.train.stage import StageConfig

DTYPES = {"float32": jnp.float32, "bfloat16": jnp.bfloat16, "float16": jnp.float16}


@dataclasses.dataclass(frozen=True)
class ValidationConfig:
    """Fixed held-out rows.

    Attributes:
      batches: how many batches of `data.rows` rows; 0 for none.
      groups: held-out sources, as `data.groups`.
      samples: at every evaluation, so many held-out prompts are drawn and so many held-out
        pictures asked about, for people to look at; tokenizers rebuild so many pictures.
      classes: categories of the held-out pictures, for labels as `data.classes` gives; by default
        those.
      prompts: with `{}` where a class stands: a recipe of pictures and texts says of which class
        held-out pictures are (`evaluate.zero_shot`).
    """

    batches: int = 0
    samples: int = 0
    groups: tuple[GroupConfig, ...] = ()
    classes: tuple[str, ...] = added(())
    prompts: tuple[str, ...] = added(())

    def __post_init__(self):
        for name in ("batches", "samples"):
            if getattr(self, name) < 0:
                found = f"{getattr(self, name)}"
                raise UserError(f"validation.{name}", found, "0 or more", "Change it.")

    @property
    def sources(self) -> tuple[SourceConfig, ...]:
        return tuple(source for group in self.groups for source in group.sources)


@dataclasses.dataclass(frozen=True)
class RunConfig:
    """One stage of training, whole.

    Attributes:
      reproduces: what published run or table this is, or what it is for.
      system: its name (`systems.registry`).
      model: sizes, of the class that the system names.
      data: sources, mixture, rows.
      stage: what is trained, and how.
      tokenizer: directory of the text tokenizer; empty where there is no text.
      init: parts that do not start at random: {group: run directory or weight file}, `PATH:NAME`
        where the group is called NAME there, `:NAME` for a copy of another group of the model, or
        of a part of it, as that one starts (`train.carry`).
      before: configs of runs that are trained first where they are not yet, each in
        `before/NAME` of the run directory; `init` calls their groups `NAME:GROUP`.
      mup_base: sizes, as `model`, at which the initialisation and the learning rates are as given;
        those of `model` follow by the maximal-update parametrisation (`train.mup`). None: they are
        as given at any size, the standard parametrisation.
      check: decode all pictures of users' own data before the first step, and tell what is broken.
      skip_bad: share of a user's records that may be broken: those are told, and left out.
      cache_frozen: compute features and codes of frozen encoders once, ahead of training.
      dtype: of compute.
      param_dtype: of trained parameters.
      remat: "none", "dots" or "full".
      accumulate: parts in which the rows of a step are worked, one after another, to save memory.
      follow: keys whose values `unijax finetune` chooses by the checkpoint, the data and the device
        where the command line does not say them (`main.defaults`).
      chosen: what it chose, and why.
      seed: of initialisation and of the steps' keys; data has its own.
      hardware: topology that the run is meant for, as `unijax plan` takes it; empty for none.
    """

    reproduces: str
    system: str
    model: Any
    data: Any
    stage: StageConfig
    tokenizer: str
    loop: LoopConfig
    mesh: MeshConfig = dataclasses.field(default_factory=MeshConfig)
    validation: ValidationConfig = dataclasses.field(default_factory=ValidationConfig)
    init: dict[str, str] = dataclasses.field(default_factory=dict)
    before: dict[str, Any] | None = added(None)
    mup_base: Any = None
    check: bool = added(True)
    skip_bad: float = added(0.0)
    cache_frozen: bool = False
    dtype: str = "float32"
    param_dtype: str = "float32"
    remat: str = "none"
    accumulate: int = 1
    follow: tuple[str, ...] = added(())
    chosen: tuple[str, ...] = added(())
    seed: int = 0
    hardware: str = ""

    def __post_init__(self):
        if self.mup_base is not None:
            mup.check_stage(self.stage)


DATA = {"rows": DataConfig, "pictures": PictureConfig}  # what configures a system's food


def resolve(values: Any, overrides: Sequence[str] = ()) -> RunConfig:
    """The one place where a config becomes dataclasses.

    Args:
      values: a `ConfigDict`, or what a checkpoint recorded.
      overrides: `key.subkey=value`, of any key, also one that the config left at its default.

    Raises:
      UserError: for a wrong key, type or value.
    """
    run = build(RunConfig, values, "")
    _refuse_addresses(to_json(run), "")
    of = recipe(run.system)
    known = {"dtype": DTYPES, "param_dtype": DTYPES, "remat": REMAT_POLICIES}
    for name, values_of in known.items():
        if (found := getattr(run, name)) not in values_of:
            raise UserError(name, repr(found), f"one of {sorted(values_of)}", "Correct the config.")
    run = dataclasses.replace(
        run,
        model=build(of.config, run.model, "model"),
        data=build(DATA[of.eats], run.data, "data"),
        before=run.before and {name: _before(name, values) for name, values in run.before.items()},
    )
    if run.mup_base is not None:
        if not hasattr(of.system, "head_dims"):
            raise UserError(
                "mup_base", "sizes", f"none for system {of.name!r}: it has no transformer",
                "Remove mup_base.",
            )  # fmt: skip
        run = dataclasses.replace(run, mup_base=build(of.config, run.mup_base, "mup_base"))
    if not overrides:
        return run
    whole = to_json(run, whole=True)
    for text in overrides:
        override(whole, text)
    return resolve(whole)


def _before(name: str, values: Any) -> RunConfig:
    if not name.isidentifier():
        raise UserError("before", repr(name), "a name of letters and digits", "Choose another.")
    try:
        return resolve(values)
    except UserError as error:
        where = f"before.{name}.{error.where}".rstrip(".")
        raise UserError(where, error.found, error.expected, error.fix) from None


# Keys of a config whose paths may be addresses: what is there is copied to this machine when it is
# opened, and checkpoints record the address.
_READ_FROM_BUCKETS = re.compile(r"(.*\.)?(tokenizer|sources\.[^.]+\.path)")


def _refuse_addresses(value: Any, key: str) -> None:
    """Raises a UserError that names the key, of one that takes none."""
    if isinstance(value, str) and is_address(value) and not _READ_FROM_BUCKETS.fullmatch(key):
        raise UserError(key, repr(value), "a path of this machine", "Mount the bucket, or copy it.")
    inside = value.items() if isinstance(value, dict) else ()
    inside = enumerate(value) if isinstance(value, list) else inside
    for name, x in inside:
        _refuse_addresses(x, f"{key}.{name}" if key else str(name))


def make_system(run: RunConfig) -> System:
    """The recipe of a resolved run, with its adapters."""
    return adapted(_of_sizes(run, run.model), run.stage.lora)


def make_mup_base(run: RunConfig) -> System | None:
    """The recipe at the sizes of `mup_base`, where there are any."""
    return None if run.mup_base is None else _of_sizes(run, run.mup_base)


def _of_sizes(run: RunConfig, model: Any) -> System:
    kinds = {"dtype": DTYPES[run.dtype], "param_dtype": DTYPES[run.param_dtype]}
    return recipe(run.system).system(model, remat=run.remat, **kinds)
