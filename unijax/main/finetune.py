"""`unijax finetune`: the checkpoint's own sizes and tokenizer, the user's own records."""

import dataclasses
import pathlib
from collections.abc import Sequence

from unijax.core.errors import UserError, named
from unijax.core.record import build
from unijax.data.config import GroupConfig, SourceConfig
from unijax.data.user import open_mixed
from unijax.data.user.faults import Faults
from unijax.main.run import RunConfig, ValidationConfig, make_system
from unijax.systems.registry import recipe
from unijax.train.checkpoint import read_run, step_directory
from unijax.train.stage import LoraRule, Rule, with_rules

# The group of the mixture that a task belongs to.
_GROUPS = {
    "describe": "und",
    "generate": "gen",
    "question": "und",
    "chat": "und",
    "draw": "gen",
    "text": "text",
    "page": "und",
    "name": "und",
    "category": "und",
    "keywords": "und",
    "category_to_image": "gen",
}


def with_user_data(
    run: RunConfig,
    init_from: str,
    paths: Sequence[pathlib.Path],
    held_out: Sequence[pathlib.Path] = (),
) -> RunConfig:
    """The run with the checkpoint's model, template, rounding and tokenizer, the paths as its data.

    A stage without rules trains what the system does not keep as it is. Each record is used for all
    that it can teach, whatever the others of its path are, in the config's ratio of groups. A group
    that no path feeds is left out. The records of `held_out` are never trained on: the validation
    losses are of them.

    Raises:
      UserError: for a checkpoint of another system, a record that teaches nothing, or paths that
        feed no group of the config.
    """
    saved = read_run(init_from)["config"]
    of = recipe(saved["system"])
    if of.eats != "rows":
        raise UserError(
            init_from, f"a checkpoint of the system {of.name!r}", "one that reads and writes text",
            "Give a run directory that `unijax import` or `unijax train` wrote.",
        )  # fmt: skip
    model = build(of.config, saved["model"], "model")
    groups = _groups(run, paths)
    validation = run.validation
    if held_out:
        validation = dataclasses.replace(validation, groups=_groups(run, held_out))
    else:
        validation = ValidationConfig()
    data, recorded = run.data, saved.get("data", {})
    system = of.system(model)
    stage = with_rules(run.stage, system.keeps)
    slots = system.layout.slots
    most = max(data.slots.values(), default=0)
    data = dataclasses.replace(
        data,
        groups=groups,
        slots={name: data.slots.get(name, most) for name in slots},
        template=recorded.get("template", data.template),
        und_rounding=recorded.get("und_rounding", data.und_rounding),
    )
    return dataclasses.replace(
        run,
        system=of.name,
        model=model,
        stage=stage,
        data=data,
        validation=validation,
        tokenizer=named(str(step_directory(init_from).parent.parent / "tokenizer")),
    )


def with_adapters(run: RunConfig, rank: int) -> RunConfig:
    """The run with low-rank adapters, which alone train, in the layers that the system adapts.

    They are of scale 1, and learn at ten times the rate of whole fine-tuning (arXiv 2405.09673,
    section 4.3, finds an order of magnitude best). Checkpoints hold the adapters alone.

    Raises:
      UserError: for a rank below 1.
    """
    lora = (LoraRule(make_system(run).adapts, rank, float(rank)),)
    optimizers = {
        name: dataclasses.replace(o, learning_rate=10 * o.learning_rate)
        for name, o in run.stage.optimizers.items()
        if name == "main"
    }
    rules = (Rule(".*/lora_[ab]$"), Rule("", frozen=True))
    stage = dataclasses.replace(run.stage, lora=lora, rules=rules, optimizers=optimizers)
    loop = dataclasses.replace(run.loop, save_frozen=False)
    return dataclasses.replace(run, stage=stage, loop=loop)


def _groups(run: RunConfig, paths: Sequence[pathlib.Path]) -> tuple[GroupConfig, ...]:
    """The groups of the config that the paths feed."""
    sources: dict[str, list[SourceConfig]] = {}
    stems: list[str] = []
    for path in paths:
        same = stems.count(path.stem)
        stems.append(path.stem)
        stem = f"{path.stem}.{same + 1}" if same else path.stem
        for task in _what_they_teach(path, run.check):
            source = SourceConfig(f"{stem}_{task}", task, "mixed", named(str(path)))
            sources.setdefault(_GROUPS[task], []).append(source)
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


def _what_they_teach(path: pathlib.Path, checked: bool) -> list[str]:
    """The tasks that the records of a path can teach, in the order of `_GROUPS`.

    Args:
      checked: later, where all that is broken is told at once.
    """
    records, found = open_mixed(path, Faults(gathers=checked)), set()
    for first, tasks in records.facts.tasks():
        if not tasks:
            record = records[first]
            has = sorted(set(record) - {"id", "where"})
            raise UserError(
                record["where"],
                f"nothing to learn ({', '.join(has) or 'nothing'} alone)",
                "an image with caption, prompt, question and answer, label, category or keywords; "
                "or messages, text, or parts",
                "Add what is to be learned, or take the record out.",
            )
        found |= set(tasks)
    return [task for task in _GROUPS if task in found]
