"""Looks at every step's loss and gradients: values that are not finite, and losses that jump.

The device decides alone that a step whose loss or gradient is not finite is not applied
(`train.step`). The host reads the outcome a step late, so that it never waits for the newest, and
does what the config says. All processes read the same values and decide the same.
"""

import math
from collections import deque
from collections.abc import Mapping

import jax
import numpy as np

from unijax.core.errors import UserError
from unijax.core.system import Metrics
from unijax.train.events import Events
from unijax.train.metrics import APPLIED, PART_NORM

POLICIES = ("stop", "skip", "roll_back")


class NotFinite(UserError):
    """A run that stops for losses or gradients that are not finite."""


WINDOW = 128  # losses that a new one is compared with
LEAST = 32  # of them before anything is called a spike
SPIKE = 8.0  # standard deviations above the median


def spike_limit(recent: np.ndarray) -> float:
    """The loss above which one is a spike: median + 8 standard deviations of the recent ones.

    The deviation is 1.4826 times the median distance from the median, which equals it for a normal
    distribution and is moved by no less than half of the losses; at least 1e-3 of the median.

    Args:
      recent: float [n].
    """
    median = np.median(recent)
    deviation = 1.4826 * np.median(np.abs(recent - median))
    return float(median + SPIKE * max(deviation, 1e-3 * abs(median)))


class Guard:
    """Judges steps in their order.

    Attributes:
      not_finite: steps of the run that were found so.
    """

    def __init__(self, policy: str, limit: int, events: Events):
        """`policy` is one of `POLICIES`; `limit` is the number of steps that it may be used on."""
        self._policy, self._limit, self._events = policy, limit, events
        self._waiting: deque[tuple[int, Metrics, Mapping[int, str]]] = deque()
        self._recent: deque[float] = deque(maxlen=WINDOW)
        self.not_finite = 0

    def state(self) -> dict:
        """What a resumed run must know, as JSON. Of steps that were judged."""
        return {"recent": list(self._recent), "not_finite": self.not_finite}

    def resume(self, state: dict | None) -> None:
        """Of a checkpoint; None of one that has no such state."""
        state = state or {"recent": [], "not_finite": 0}
        self._recent = deque(state["recent"], maxlen=WINDOW)
        self.not_finite = state["not_finite"]

    def roll_back(self, state: dict | None) -> None:
        """As `resume`, to go on in this run: what it may still undo is not won back."""
        count = self.not_finite
        self.resume(state)
        self.not_finite = count
        self._waiting.clear()

    def add(self, step: int, metrics: Metrics, documents: Mapping[int, str]) -> None:
        """A step that was dispatched, and the documents of its batch by uid."""
        for name in ("loss", APPLIED):
            metrics[name][0].copy_to_host_async()
        self._waiting.append((step, metrics, documents))

    def must_roll_back(self, leave: int) -> bool:
        """Judges all steps but the newest `leave`.

        Returns:
          Whether to go back to the last checkpoint.

        Raises:
          NotFinite: for a step that is not finite, where the policy or its limit says so.
        """
        while len(self._waiting) > leave:
            step, metrics, documents = self._waiting.popleft()
            loss = float(metrics["loss"][0])
            if not float(metrics[APPLIED][0]):
                if self._is_undone(step, metrics, documents):
                    return True
                continue
            if len(self._recent) >= LEAST and loss > (limit := spike_limit(np.array(self._recent))):
                self._events.tell(
                    "spike", step, f"loss {loss:.4g}, a spike: above {limit:.4g}",
                    limit=limit, **_known(metrics, documents),
                )  # fmt: skip
            self._recent.append(loss)
        return False

    def _is_undone(self, step: int, metrics: Metrics, documents: Mapping[int, str]) -> bool:
        """Tells of a step that is not finite; whether it is a reason to go back."""
        known = _known(metrics, documents)
        loss, worst = known["loss"], known["worst"]
        found = f"loss {loss}, gradient of {worst} {known['gradient_norms'][worst]}"
        allowed = self._policy != "stop" and self.not_finite < self._limit
        action = self._policy if allowed else "stop"
        self.not_finite += 1
        said = {"stop": "stopped", "skip": "step not applied", "roll_back": "going back"}[action]
        self._events.tell("not_finite", step, f"{found}: {said}", action=action, **known)
        if action == "stop":
            names = list(documents.values())
            of_batch = ", ".join(names[:3]) + (f" and {len(names) - 3} more" * (len(names) > 3))
            past = f", {self._limit} such steps before it" if self._policy != "stop" else ""
            raise NotFinite(
                f"step {step}",
                found + past,
                "finite values",
                "The step was not applied and the last checkpoint is intact. Lower the learning "
                f"rate, inspect the batch ({of_batch or 'documents not named'}; events.jsonl names "
                "all), or set loop.non_finite to 'skip' or 'roll_back'.",
            )
        return action == "roll_back"


def _known(metrics: Metrics, documents: Mapping[int, str]) -> dict:
    """What a step's metrics and batch tell, as JSON; values that are not finite as words."""
    host = jax.device_get({k: v[0] for k, v in metrics.items()})
    norms = {
        k.removeprefix(PART_NORM): float(v) for k, v in host.items() if k.startswith(PART_NORM)
    }
    worst = max(norms, key=lambda part: (not math.isfinite(norms[part]), norms[part]))
    return {
        "loss": _json(float(host["loss"])),
        "worst": worst,
        "gradient_norms": {part: _json(norm) for part, norm in norms.items()},
        "documents": {str(uid): name for uid, name in documents.items()},
    }


def _json(x: float) -> float | str:
    return x if math.isfinite(x) else str(x)
