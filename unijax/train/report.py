"""Metrics of the steps, added up on the device and written a period at a time."""

import contextlib
import resource
import time
from collections import Counter, deque
from collections.abc import Iterator, Mapping

import jax
import numpy as np
from tqdm import tqdm

from unijax.core.peak import peak_flops
from unijax.core.processes import is_lead
from unijax.core.system import Metrics
from unijax.train import metrics as metrics_lib
from unijax.train.metrics import APPLIED
from unijax.train.writers import Writers

_RECENT = 1000  # steps whose times percentiles are of
_PERCENTILES = (50, 90, 99)


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
        self._bar.set_postfix_str("compiling the first step")
        pending = {"total": {}, "host": {}, "count": 0, "useful": 0.0} | (pending or {})
        total = {name: tuple(map(np.float32, pair)) for name, pair in pending["total"].items()}
        self._total: Metrics | None = total or None
        self._host: Counter[str] = Counter(pending["host"])
        self._count: int = pending["count"]
        self._ready: tuple[int, int, Metrics, Counter[str]] | None = None
        self._recent: deque[float] = deque(maxlen=_RECENT)
        self._useful: float = pending["useful"]
        self._arrival: float | None = None  # of the newest step that is known to be done
        self._clock = time.perf_counter()

    def pending(self) -> dict:
        """The sums of a period that is not over, as JSON. Floats keep their bits. Waits."""
        total = jax.device_get(self._total or {})
        total = {name: list(map(float, pair)) for name, pair in total.items()}
        host = dict(self._host)
        return {"total": total, "host": host, "count": self._count, "useful": self._useful}

    @contextlib.contextmanager
    def paused(self, doing: str = "") -> Iterator[None]:
        """Time spent outside of training does not count as step time; the bar says for what."""
        begun, before = time.perf_counter(), self._bar.postfix or ""
        self._bar.set_postfix_str(doing)
        yield
        self._bar.set_postfix_str(before, refresh=False)
        seconds = time.perf_counter() - begun
        self._clock += seconds
        if self._arrival is not None:
            self._arrival += seconds

    def arrived(self, applied: bool) -> None:
        """One more step is done. The first, which was compiled, is not timed."""
        now = time.perf_counter()
        if self._arrival is None:
            self._bar.set_postfix_str("")
        else:
            self._recent.append(now - self._arrival)
            self._useful += applied * (now - self._arrival)
        self._arrival = now

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
        for share in _PERCENTILES if self._recent else ():
            values[f"seconds_per_step_p{share}"] = float(np.percentile(self._recent, share))
        self._writers.scalars(step, values | machine(values, self._useful))
        if "loss" in values:
            self._bar.set_postfix(loss=f"{values['loss']:.3f}", refresh=False)

    def close(self) -> None:
        self._bar.close()


def machine(values: Mapping[str, float], useful: float) -> dict[str, float]:
    """What the devices and the host tell, as `machine/name`; what they do not know is left out.

    Args:
      values: of a period, with `model_flops_per_second`.
      useful: seconds in steps of the surviving history that changed the parameters.
    """
    found = {"useful_seconds": useful}
    peak = peak_flops(jax.devices()[0].device_kind)
    if peak is not None and "model_flops_per_second" in values:
        found["mfu"] = values["model_flops_per_second"] / (peak * jax.device_count())
    used = [
        (device.memory_stats() or {}).get("peak_bytes_in_use") for device in jax.local_devices()
    ]
    if None not in used:
        found["device_memory_gib"] = max(used) / 2**30
    # Linux counts it in KiB.
    found["host_memory_gib"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    return {f"machine/{name}": float(value) for name, value in found.items()}
