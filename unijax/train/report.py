"""Metrics of the steps, added up on the device and written a period at a time."""

import time
from collections import Counter
from collections.abc import Mapping

import jax
import numpy as np
from tqdm import tqdm

from unijax.core.processes import is_lead
from unijax.core.system import Metrics
from unijax.train import metrics as metrics_lib
from unijax.train.metrics import APPLIED
from unijax.train.writers import Writers


class Report:
    """Adds metrics up on the device and writes them a step late, so that the host never waits."""

    def __init__(
        self, writers: Writers, stage: str, start: int, steps: int, pending: dict | None = None
    ):
        """`pending` is what a run that is resumed had added up."""
        self._writers = writers
        self._bar = tqdm(
            total=steps, initial=start, desc=stage, unit="step", dynamic_ncols=True,
            disable=not is_lead(),
        )  # fmt: skip
        pending = pending or {"total": {}, "host": {}, "count": 0}
        total = {name: tuple(map(np.float32, pair)) for name, pair in pending["total"].items()}
        self._total: Metrics | None = total or None
        self._host: Counter[str] = Counter(pending["host"])
        self._count: int = pending["count"]
        self._ready: tuple[int, int, Metrics, Counter[str]] | None = None
        self.restart_clock()

    def pending(self) -> dict:
        """The sums of a period that is not over, as JSON. Floats keep their bits. Waits."""
        total = jax.device_get(self._total or {})
        total = {name: list(map(float, pair)) for name, pair in total.items()}
        return {"total": total, "host": dict(self._host), "count": self._count}

    def restart_clock(self) -> None:
        """Time spent outside of training does not count as step time."""
        self._clock = time.perf_counter()

    def add(self, step: int, metrics: Metrics, host: Mapping[str, int | float], emit: bool) -> None:
        self._host.update(host)
        self._total = metrics_lib.add_step(self._total, metrics)
        self._count += 1
        self._bar.update(1)
        self.flush()
        if emit:
            self._ready = (step, self._count, self._total, self._host)
            self._total, self._count, self._host = None, 0, Counter()

    def flush(self) -> None:
        """Writes the period that was closed before the newest step was dispatched."""
        if self._ready is None:
            return
        step, count, total, host = self._ready
        self._ready = None
        values = metrics_lib.quotients(total)
        if (applied := values.pop(APPLIED)) < 1:
            values["steps_not_applied"] = float(round((1 - applied) * count))
        values |= {f"data/{name}": value / count for name, value in host.items()}
        now = time.perf_counter()
        seconds, self._clock = (now - self._clock) / count, now
        values["seconds_per_step"] = seconds
        if "tokens" in values:
            values["tokens_per_second"] = values["tokens"] / seconds
        # By the pairs that attention sees, and as if every row were one causal document.
        for name in ("flops", "flops_if_causal"):
            if name in values:
                rate = name.replace("flops", "model_flops_per_second")
                values[rate] = values[name] / seconds
        self._writers.scalars(step, values)
        if "loss" in values:
            self._bar.set_postfix(loss=f"{values['loss']:.3f}", refresh=False)

    def close(self) -> None:
        self._bar.close()
