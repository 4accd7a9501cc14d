"""`unijax finetune`: the checkpoint's own sizes and tokenizer, the user's own records."""

import dataclasses
import pathlib
from collections.abc import Sequence

from unijax.core.errors import UserError
from unijax.data.config import GroupConfig, SourceConfig
from unijax.data.sources import open_records
from unijax.main.config import build
from unijax.main.run import RunConfig, ValidationConfig
from unijax.systems.janus import JanusConfig
from unijax.train.checkpoint import read_run

# What a record can teach: the field that it needs, the task, the group of the mixture.
_TASKS = (
    ("captions", "describe", "und"),
    ("captions", "generate", "gen"),
    ("questions", "question", "und"),
    ("messages", "chat", "und"),
    ("text", "text", "text"),
)


def with_user_data(
    run: RunConfig,
    init_from: str,
    paths: Sequence[pathlib.Path],
    held_out: Sequence[pathlib.Path] = (),
) -> RunConfig:
    """The run with the checkpoint's model, template and tokenizer, and the paths as its data.

    Every path must hold records of one kind; each kind is used for all that it can teach, in the
    config's ratio of groups. A group that no path feeds is left out. The records of `held_out` are
    never trained on: the validation losses are of them.

    Raises:
      UserError: for a checkpoint of another system, or a path that feeds no group of the config.
    """
    saved = read_run(init_from)["config"]
    if saved.get("system") != "janus":
        raise UserError(
            init_from, f"a checkpoint of the system {saved.get('system')!r}", "one of 'janus'",
            "Give a run directory that `unijax import` or `unijax train` wrote.",
        )  # fmt: skip
    model = build(JanusConfig, saved["model"], "model")
    groups = _groups(run, paths)
    validation = run.validation
    if held_out:
        validation = dataclasses.replace(validation, groups=_groups(run, held_out))
    else:
        validation = ValidationConfig()
    data = run.data
    data = dataclasses.replace(
        data,
        groups=groups,
        template=saved.get("data", {}).get("template", data.template),
        und=_fitted(data.und, model.vision.image_size, model.vision.num_tokens),
        gen=_fitted(data.gen, model.vq.image_size, model.vq.num_tokens),
    )
    return dataclasses.replace(
        run,
        model=model,
        data=data,
        validation=validation,
        tokenizer=str(pathlib.Path(init_from) / "tokenizer"),
    )


def _groups(run: RunConfig, paths: Sequence[pathlib.Path]) -> tuple[GroupConfig, ...]:
    """The groups of the config that the paths feed."""
    sources: dict[str, list[SourceConfig]] = {}
    for path in paths:
        for task, group in _what_it_teaches(path):
            source = SourceConfig(f"{path.stem}_{task}", task, _kind(path), str(path))
            sources.setdefault(group, []).append(source)
    groups = tuple(
        GroupConfig(group.name, group.ratio, tuple(sources[group.name]))
        for group in run.data.groups
        if group.name in sources and group.ratio > 0
    )
    if not groups:
        raise UserError(
            ", ".join(map(str, paths)),
            f"records for {sorted(sources)}",
            f"records for a group of the config: {[g.name for g in run.data.groups if g.ratio]}",
            "Change the ratios in data.groups, or the data.",
        )
    return groups


def _fitted(stream, size: int, tokens: int):
    return None if stream is None else dataclasses.replace(stream, size=size, tokens=tokens)


def _kind(path: pathlib.Path) -> str:
    return "folder" if path.is_dir() else "jsonl"


def _what_it_teaches(path: pathlib.Path) -> list[tuple[str, str]]:
    record = open_records(SourceConfig(path.stem, "text", _kind(path), str(path)), 0)[0]
    tasks = [(task, group) for field, task, group in _TASKS if record.get(field)]
    # A prompt asks for its picture; it does not describe it.
    return [(task, group) for task, group in tasks if task != "describe" or "prompt" not in record]
