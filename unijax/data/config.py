"""What the data path is told: sources, mixture, rows, images."""

import dataclasses
import math

from unijax.core.errors import UserError
from unijax.core.record import added
from unijax.core.stream import Layout, Stream
from unijax.data.document import Size
from unijax.data.prepare import Preparation
from unijax.data.render import RenderConfig
from unijax.data.tasks import STREAMS, TASKS
from unijax.data.templates import TEMPLATES, Template

GROUPS = ("und", "text", "gen")
KINDS = ("shipped", "scenes", "jsonl", "folder", "parquet", "webdataset", "mixed")


@dataclasses.dataclass(frozen=True)
class SourceConfig:
    """One source of records, and the task it is used for.

    Attributes:
      name: names the source in messages, metrics and states; unique.
      task: how its records are rendered, one of `data.tasks.TASKS`.
      kind: "shipped" (a dataset of this project), "scenes" (composed on the fly), "jsonl" (an array
        of JSON too), "folder", "parquet" or "webdataset" (a user's own, every record fit for the
        task), or "mixed" (any of these, of which the source has the records that can teach the
        task).
      path: name of the shipped dataset, or path of the user's file or folder; unused for scenes.
      split: of shipped datasets and scenes.
      weight: share within its group, relative to the group's other sources.
      categories: only records of these categories; empty for all.
      limit: only so many records, a choice by their ids; 0 for all.
      left_out: places of records of a user's own data that are not read, as messages name them.
      from_step, until_step: the steps in which the source is drawn from; until 0 means for ever. A
        step is `DataConfig.rows` rows given, so the change comes a few open rows late.
    """

    name: str
    task: str
    kind: str = "shipped"
    path: str = ""
    split: str = "train"
    weight: float = 1.0
    categories: tuple[str, ...] = ()
    limit: int = 0
    from_step: int = 0
    until_step: int = 0
    left_out: tuple[str, ...] = added((), repr=False)


@dataclasses.dataclass(frozen=True)
class GroupConfig:
    """A group of sources with a share in the mixture: und, text or gen."""

    name: str
    ratio: float
    sources: tuple[SourceConfig, ...]


@dataclasses.dataclass(frozen=True)
class DataConfig:
    """The data of a run. The rows are a function of this, the seed in it and the data alone.

    Attributes:
      groups: the mixture, und : text : gen.
      row_length: T, tokens of a row.
      rows: rows of the global batch of one step.
      slots: I, the images of a row at most, by the array of slots (`core.stream.Stream.slots`); an
        array that is left out, or has 0, is not there.
      unit: what the ratio counts, "samples" or "tokens".
      overlong: what becomes of documents longer than a row: "drop", or "split" texts and pages and
        drop the others.
      open_rows: rows filled at once. Of a mix 2:3:5 with images of 576 tokens in rows of 4096, 32
        waste 0.3% and 1 wastes 9.5%; of 5:1:4, with little text to fill gaps, 2.9% and 9.3%.
      template: of conversations, a name in `data.templates.TEMPLATES`.
      p_first_sentence: see `RenderConfig`.
      p_drop_condition: see `RenderConfig`.
      p_drop_images, p_drop_both: see `RenderConfig`.
      learn_prompts: see `RenderConfig`: False for instructions, True for pretraining on all text.
      und_rounding: of the short side in the resize: "floor" as in the released code of Janus, or
        "round" as in Hugging Face's processor.
      max_pixels: larger pictures are refused, before they are decoded.
      may_change: whether a run goes on where records have come or gone since its checkpoint: each
        source from as many draws, in the order of what there is now.
      seed: of shuffling and of every random choice.
      prefetch: batches prepared ahead.
      decode_threads: pictures decoded at once.
    """

    groups: tuple[GroupConfig, ...]
    row_length: int
    rows: int
    slots: dict[str, int] = dataclasses.field(default_factory=dict)
    unit: str = "samples"
    overlong: str = "drop"
    open_rows: int = 32
    template: str = "janus_pro"
    p_first_sentence: float = 0.25
    p_drop_condition: float = 0.1
    learn_prompts: bool = added(False)
    p_drop_images: float = added(0.0)
    p_drop_both: float = added(0.0)
    und_rounding: str = "floor"
    max_pixels: int = 50_000_000
    may_change: bool = added(False, repr=False)
    seed: int = 0
    prefetch: int = 2
    decode_threads: int = 2

    @property
    def sources(self) -> tuple[SourceConfig, ...]:
        return tuple(source for group in self.groups for source in group.sources)


def limit_of(config: DataConfig, layout: Layout) -> Size:
    """What a row holds."""
    return Size(config.row_length, tuple(config.slots.get(name, 0) for name in layout.slots))


def preparation(config: DataConfig, stream: Stream) -> Preparation:
    """How the pictures of a stream are prepared."""
    return Preparation(stream.size, stream.resize, config.und_rounding, config.max_pixels)


def rendering(config: DataConfig, layout: Layout) -> RenderConfig:
    """How its records become documents."""
    template: Template = TEMPLATES[config.template]
    return RenderConfig(
        layout, template, config.p_first_sentence, config.p_drop_condition, config.learn_prompts,
        config.seed, config.p_drop_images, config.p_drop_both,
    )  # fmt: skip


def is_active(source: SourceConfig, step: int) -> bool:
    """Whether a source is drawn from in a step."""
    return source.from_step <= step and (source.until_step == 0 or step < source.until_step)


def phases(config: DataConfig) -> list[int]:
    """The steps, in order, at which sources come or go; the beginning is not among them."""
    steps = {step for source in config.sources for step in (source.from_step, source.until_step)}
    return sorted(steps - {0})


def check(config: DataConfig, layout: Layout) -> None:
    """Raises a UserError for the first setting that cannot work with the recipe's layout."""
    _one_of("data.unit", config.unit, ("samples", "tokens"))
    _one_of("data.overlong", config.overlong, ("split", "drop"))
    _one_of("data.template", config.template, tuple(TEMPLATES))
    _one_of("data.und_rounding", config.und_rounding, ("floor", "round"))
    for name in ("row_length", "rows", "open_rows", "max_pixels", "decode_threads"):
        _at_least(f"data.{name}", getattr(config, name), 1)
    for name in ("prefetch", "seed"):
        _at_least(f"data.{name}", getattr(config, name), 0)
    for name in ("p_first_sentence", "p_drop_condition", "p_drop_images", "p_drop_both"):
        p = getattr(config, name)
        if not 0 <= p <= 1:
            raise UserError(f"data.{name}", f"{p}", "a probability, 0 to 1", "Correct it.")
    one, other, both = config.p_drop_condition, config.p_drop_images, config.p_drop_both
    if both > min(one, other) or one + other - both > 1:
        raise UserError(
            "data.p_drop_both", f"{both}, of {one} and {other}",
            "at most each of p_drop_condition and p_drop_images, and all of it at most 1",
            "Correct them.",
        )  # fmt: skip
    gen = layout.by_role.get("gen")
    if other and (gen is None or gen.unconditional != "words"):
        raise UserError(
            "data.p_drop_images", f"{other}", "0: this system leaves out a whole condition",
            "Set p_drop_condition.",
        )  # fmt: skip
    for name, count in config.slots.items():
        _one_of("data.slots", name, layout.slots)
        _at_least(f"data.slots.{name}", count, 0)
    for stream in layout.streams:
        if config.slots.get(stream.slots):
            _check_stream(f"data.slots.{stream.slots}", stream, layout, config.row_length)
    for group in config.groups:
        _share(f"data.groups.{group.name}.ratio", group.ratio)
        for source in group.sources:
            check_source(f"data.groups.{group.name}.{source.name}", source)
    _once("data.groups", "source", [source.name for source in config.sources])
    _once("data.groups", "group", [group.name for group in config.groups])
    if not any(group.ratio > 0 for group in config.groups):
        raise UserError("data.groups", "no group with a ratio above 0", "at least one", "Add one.")
    for group in config.groups:
        _check_group(group, config, layout)


def check_source(where: str, source: SourceConfig) -> None:
    """Raises a UserError for what no source can be, whatever reads it."""
    _one_of(f"{where}.kind", source.kind, KINDS)
    _share(f"{where}.weight", source.weight)
    for name in ("limit", "from_step", "until_step"):
        _at_least(f"{where}.{name}", getattr(source, name), 0)


def _check_stream(where: str, stream: Stream, layout: Layout, row_length: int) -> None:
    least = stream.length + layout.begins
    if least > row_length:
        raise UserError(
            where,
            f"{stream.tokens} tokens an image and rows of {row_length}",
            f"rows of at least {least}: the image, its marks, and what documents begin with",
            "Raise data.row_length.",
        )


def _check_group(group: GroupConfig, config: DataConfig, layout: Layout) -> None:
    where = f"data.groups.{group.name}"
    _one_of("data.groups", group.name, GROUPS)
    for step in (0, *phases(config)) if group.ratio > 0 else ():
        if not any(source.weight > 0 and is_active(source, step) for source in group.sources):
            raise UserError(
                where,
                f"no source with a weight above 0 in step {step}",
                "at least one, in every step",
                "Add one, or correct its weight, from_step or until_step.",
            )
    for source in group.sources:
        name = f"{where}.{source.name}"
        _one_of(f"{name}.task", source.task, tuple(TASKS))
        if source.kind == "scenes" and source.categories:
            raise UserError(
                name, "categories of scenes", "none: scenes have no category", "Remove them."
            )
        role = STREAMS.get(source.task)
        if role is not None:
            check_role(name, f"the task {source.task!r}", role, config, layout)


def check_role(where: str, what: str, role: str, config: DataConfig, layout: Layout) -> None:
    """Raises a UserError where there are no slots for images of a role."""
    if role not in layout.by_role:
        raise UserError(
            where, f"{what} with images of the role {role!r}",
            f"what the system has a stream for: {', '.join(layout.by_role) or 'text alone'}",
            "Choose another task, or another system.",
        )  # fmt: skip
    slots = layout.by_role[role].slots
    if not config.slots.get(slots):
        raise UserError(
            where,
            f"{what} without slots for its images ({role})",
            f"data.slots.{slots}, the images of a row at most",
            "Add the slots, or choose another task.",
        )


def _once(where: str, thing: str, names: list[str]) -> None:
    twice = [name for name in names if names.count(name) > 1]
    if twice:
        raise UserError(
            where,
            f"the {thing} name {twice[0]!r} twice",
            f"a name of its own for each {thing}",
            f"Rename one: states and metrics tell {thing}s apart by name.",
        )


def _share(where: str, value: float) -> None:
    if not (math.isfinite(value) and value >= 0):
        raise UserError(where, f"{value}", "a finite number, 0 or more", "Correct it.")


def _one_of(where: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise UserError(where, repr(value), f"one of {', '.join(allowed)}", "Correct it.")


def _at_least(where: str, value: int, least: int) -> None:
    if value < least:
        raise UserError(where, f"{value}", f"at least {least}", "Correct it.")
