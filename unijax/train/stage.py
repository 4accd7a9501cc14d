"""What a stage trains, and how: rules on parameter paths, and an optimizer per group."""

import dataclasses
import re

from unijax.core.errors import UserError


@dataclasses.dataclass(frozen=True)
class OptimizerConfig:
    """AdamW with global-norm clipping and a schedule.

    Attributes:
      learning_rate: peak.
      schedule: "constant" after warm-up, "cosine" to zero at the last step, or "constant_decay":
        constant, then linear to zero over the last `decay_fraction` of the steps.
      warmup_steps: linear; step s of them (from 0) has the share (s + 1) / warmup_steps.
      clip_norm: of this group's gradients.
    """

    learning_rate: float
    schedule: str = "constant"
    warmup_steps: int = 0
    decay_fraction: float = 0.2
    b1: float = 0.9
    b2: float = 0.95
    eps: float = 1e-8
    weight_decay: float = 0.0
    clip_norm: float = 1.0

    def __post_init__(self):
        if self.schedule not in ("constant", "cosine", "constant_decay"):
            raise UserError(
                "stage.optimizers.*.schedule",
                repr(self.schedule),
                "'constant', 'cosine' or 'constant_decay'",
                "Correct the config.",
            )


@dataclasses.dataclass(frozen=True)
class Rule:
    """How the parameters whose path matches `pattern` are treated.

    Attributes:
      pattern: regular expression matched against the start of the path.
      frozen: not trained: absent from the optimizer, kept in compute dtype.
      lr_multiple: of the optimizer's learning rate.
      decay: whether kernels and tables get weight decay (norms and biases never do).
      optimizer: key of `StageConfig.optimizers`.
    """

    pattern: str
    frozen: bool = False
    lr_multiple: float = 1.0
    decay: bool = True
    optimizer: str = "main"

    def __post_init__(self):
        try:
            re.compile(self.pattern)
        except re.error as e:
            raise UserError(
                "stage.rules.*.pattern", f"{self.pattern!r} ({e})", "a regular expression",
                "Correct the config.",
            ) from None  # fmt: skip


@dataclasses.dataclass(frozen=True)
class StageConfig:
    """A stage of training.

    Attributes:
      name: of the stage, recorded in checkpoints.
      steps: optimizer steps.
      rules: the first whose pattern matches a path decides; a path without a rule is an error.
      optimizers: one per disjoint parameter group.
      ema_decay: keep an exponential moving average of the trained parameters; 0 keeps none.
    """

    name: str
    steps: int
    rules: tuple[Rule, ...]
    optimizers: dict[str, OptimizerConfig]
    ema_decay: float = 0.0

    def __post_init__(self):
        if self.steps < 1:
            raise UserError("stage.steps", f"{self.steps}", "1 or more", "Change it.")


def match_rules(stage: StageConfig, paths: list[str]) -> dict[str, Rule]:
    """The rule of every path.

    Raises:
      UserError: if a path has no rule, a rule matches nothing, or an optimizer is not defined.
    """
    used = set()
    table = {}
    for path in paths:
        rule = next((r for r in stage.rules if re.match(r.pattern, path)), None)
        if rule is None:
            raise UserError(
                f"stage {stage.name}: rules",
                f"no rule for parameter {path!r}",
                "every parameter to be frozen or trained by a rule",
                f"Add a rule whose pattern matches it, such as {path.split('/')[0] + '/'!r}.",
            )
        if not rule.frozen and rule.optimizer not in stage.optimizers:
            raise UserError(
                f"stage {stage.name}: rule {rule.pattern!r}",
                f"optimizer {rule.optimizer!r}",
                f"one of {sorted(stage.optimizers)}",
                "Name one of these or add it to stage.optimizers.",
            )
        used.add(rule)
        table[path] = rule
    if unused := [r.pattern for r in stage.rules if r not in used]:
        raise UserError(
            f"stage {stage.name}: rules",
            f"patterns that decide nothing: {unused}",
            "each rule to match a parameter that no earlier rule matched",
            "Correct the pattern or delete the rule.",
        )
    return table
