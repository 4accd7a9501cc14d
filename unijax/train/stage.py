"""What a stage trains, and how: rules on parameter paths, and an optimizer per group."""

import dataclasses
import itertools
import re
from collections.abc import Iterable

from unijax.core.bounds import BELOW_ONE, NOT_NEGATIVE, POSITIVE, SHARE, check_numbers
from unijax.core.errors import UserError
from unijax.core.record import added

KINDS = ("adamw", "lamb", "adafactor", "muon", "sgd")
SCHEDULES = ("constant", "cosine", "constant_decay", "knots")
CONSTANTS = ("/lora_scale", "/lora_dropout")  # of an adapter; they never train
CURVES = ("linear", "constant", "cosine", "exponential", "inverse_sqrt", "logarithmic")


@dataclasses.dataclass(frozen=True)
class Knot:
    """A point that a learning rate passes through.

    Attributes:
      step: steps taken by then; below 0 it counts from the stage's end, -1 being its last step.
      share: of the peak.
      curve: from the knot before. "constant": that one's share up to here; "cosine": half a wave;
        "exponential": the logarithm of the rate is linear; "inverse_sqrt": its inverse square is,
        as in 1 / sqrt(step); "logarithmic": the rate is linear in the logarithm of 1 + the steps
        since.
    """

    step: int
    share: float
    curve: str = "linear"

    def __post_init__(self):
        where = "stage.optimizers.*.knots.*"
        if self.curve not in CURVES:
            raise UserError(
                f"{where}.curve", repr(self.curve), f"one of {CURVES}", "Correct the config."
            )
        check_numbers(self, where, {"share": NOT_NEGATIVE})


_BOUNDS = {
    "learning_rate": NOT_NEGATIVE,
    "warmup_steps": NOT_NEGATIVE,
    "decay_fraction": SHARE,
    "b1": BELOW_ONE,
    "b2": BELOW_ONE,
    "eps": NOT_NEGATIVE,
    "weight_decay": NOT_NEGATIVE,
    "clip_norm": NOT_NEGATIVE,
    "final_share": SHARE,
}


@dataclasses.dataclass(frozen=True)
class OptimizerConfig:
    """An optimizer with global-norm clipping and a schedule.

    What a kind does per matrix it does per layer of a stack: as if each layer had its own leaves.

    Attributes:
      learning_rate: peak.
      schedule: "constant" after warm-up; "cosine" to the final share; "constant_decay": constant,
        then linear to the final share over the last `decay_fraction` of the steps behind the
        warm-up; "knots": see there. The final share is that of the step behind the last: a stage
        of n steps, from 0, would have it in step n, and the last one has a little more.
      warmup_steps: linear; step s of them (from 0) has the share (s + 1) / warmup_steps.
      b1: decay of the first moment. Momentum of "sgd" and "adafactor" (0 keeps none) and "muon".
      b2, eps: of second moments ("adafactor" has its own).
      weight_decay: of kernels and tables, times the learning rate. Of "sgd" it goes into the
        momentum, as in PyTorch; of "lamb", what is not decayed is not rescaled either.
      clip_norm: most norm of this group's gradients; 0 clips nothing.
      kind: "adamw" (arXiv 1711.05101); "lamb" (1904.00962, as NVIDIA has it); "adafactor"
        (1804.04235, steps relative to the size of a parameter); "muon" (2502.16982: matrices
        between widths are orthogonalised, at the size of Adam's steps, the rest is Adam's); "sgd".
      final_share: of the learning rate, where "cosine" and "constant_decay" end.
      knots: the whole schedule, warm-up included, from step 0 on; the last share stays.
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
    kind: str = added("adamw")
    final_share: float = added(0.0)
    knots: tuple[Knot, ...] = added(())

    def __post_init__(self):
        def wrong(name: str, expected: str) -> UserError:
            found = repr(getattr(self, name))
            return UserError(f"stage.optimizers.*.{name}", found, expected, "Correct the config.")

        check_numbers(self, "stage.optimizers.*", _BOUNDS)
        if self.kind not in KINDS:
            raise wrong("kind", f"one of {KINDS}")
        if self.schedule not in SCHEDULES:
            raise wrong("schedule", f"one of {SCHEDULES}")
        if self.kind == "lamb" and not self.weight_decay:
            raise wrong("weight_decay", "more than 0: lamb rescales what is decayed alone")
        if self.final_share and self.schedule not in ("cosine", "constant_decay"):
            raise wrong("final_share", f"0 with the schedule {self.schedule!r}")
        if self.schedule != "knots" and self.knots:
            raise wrong("schedule", "'knots', as there are some")
        if self.schedule == "knots":
            if not self.knots or self.knots[0].step != 0:
                raise wrong("knots", "the first at step 0")
            if self.warmup_steps:
                raise wrong("warmup_steps", "0: with knots the warm-up is one of them")
            for before, knot in itertools.pairwise(self.knots):
                if knot.curve in ("exponential", "inverse_sqrt") and not before.share * knot.share:
                    raise wrong("knots", f"shares above 0 at both ends of a curve {knot.curve!r}")


def _check_pattern(where: str, pattern: str) -> None:
    try:
        re.compile(pattern)
    except re.error as e:
        found = f"{pattern!r} ({e})"
        raise UserError(where, found, "a regular expression", "Correct the config.") from None


@dataclasses.dataclass(frozen=True)
class Rule:
    """How the parameters whose path matches `pattern` are treated.

    Attributes:
      pattern: regular expression matched against the start of the path.
      frozen: not trained: absent from the optimizer, kept in compute dtype.
      lr_multiple: of the optimizer's learning rate.
      decay: whether kernels and tables get weight decay (norms and biases never do).
      optimizer: key of `StageConfig.optimizers`.
      layer_decay: layer i of a stack of L, from 0, has `lr_multiple * layer_decay ** (L - i)`, as
        BEiT (arXiv 2106.08254) and EVA have it: the last one less than what follows the stack. What
        stands before it, at `layer_decay ** (L + 1)`, wants a rule of its own.
      clamp: least and most value of the parameters, held after every step.
    """

    pattern: str
    frozen: bool = False
    lr_multiple: float = 1.0
    decay: bool = True
    optimizer: str = "main"
    layer_decay: float = added(1.0)
    clamp: tuple[float, ...] = added(())

    def __post_init__(self):
        _check_pattern("stage.rules.*.pattern", self.pattern)
        if self.clamp and not (len(self.clamp) == 2 and self.clamp[0] <= self.clamp[1]):
            raise UserError(
                "stage.rules.*.clamp",
                f"{self.clamp}",
                "least and most value",
                "Correct the config.",
            )
        bounds = {"lr_multiple": NOT_NEGATIVE, "layer_decay": POSITIVE}
        check_numbers(self, "stage.rules.*", bounds)


@dataclasses.dataclass(frozen=True)
class LoraRule:
    """Low-rank adapters (LoRA, arXiv 2106.09685) of the linear layers whose path it matches.

    A layer of kernel W gives `W x + alpha / rank * B A dropout(x)`; B begins at zero. Heads onto
    classes get none. The rules of the stage say what trains: `lora_[ab]$` are the adapters.

    Attributes:
      pattern: regular expression matched against the start of the layer's path.
      rank: columns of A.
      alpha: see above.
      dropout: share of the values of x that A does not see in training.
    """

    pattern: str
    rank: int
    alpha: float
    dropout: float = 0.0

    def __post_init__(self):
        _check_pattern("stage.lora.*.pattern", self.pattern)
        if self.rank < 1:
            raise UserError("stage.lora.*.rank", f"{self.rank}", "1 or more", "Correct the config.")
        check_numbers(self, "stage.lora.*", {"alpha": POSITIVE, "dropout": BELOW_ONE})


@dataclasses.dataclass(frozen=True)
class StageConfig:
    """A stage of training.

    Attributes:
      name: of the stage, recorded in checkpoints.
      steps: optimizer steps.
      rules: the first whose pattern matches a path decides; a path without a rule is an error. Of
        none, all trains but what the system keeps as it is.
      optimizers: one per disjoint parameter group.
      ema_decay: keep an exponential moving average of the trained parameters; 0 keeps none.
      lora: adapters; of several rules the first that matches a layer decides.
    """

    name: str
    steps: int
    rules: tuple[Rule, ...]
    optimizers: dict[str, OptimizerConfig]
    ema_decay: float = 0.0
    lora: tuple[LoraRule, ...] = added(())

    def __post_init__(self):
        if self.steps < 1:
            raise UserError("stage.steps", f"{self.steps}", "1 or more", "Change it.")
        check_numbers(self, "stage", {"ema_decay": BELOW_ONE})


def with_rules(stage: StageConfig, keeps: Iterable[str]) -> StageConfig:
    """The stage; one without rules trains all but what a system keeps as it is."""
    if stage.rules:
        return stage
    kept = (Rule(pattern, frozen=True) for pattern in keeps)
    return dataclasses.replace(stage, rules=(*kept, Rule("")))


def match_rules(stage: StageConfig, paths: list[str]) -> dict[str, Rule]:
    """The rule of every path; what adapters are made with never trains.

    Raises:
      UserError: if a path has no rule, a rule matches nothing, or an optimizer is not defined.
    """
    used = set()
    table = {}
    for path in paths:
        if path.endswith(CONSTANTS):
            table[path] = Rule(re.escape(path), frozen=True)
            continue
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
