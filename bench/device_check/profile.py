"""Where the time of a profiled program goes, by part of the model."""

import pathlib
import re
from collections import Counter

from jax.profiler import ProfileData

KEPT = 12
# What JAX writes around the names of modules in the path of an operation.
_AROUND = re.compile(
    r"^(jit|jvp|transpose|vmap|remat\d*|checkpoint|rematted_computation|while|body|cond|"
    r"closed_call|branch_\d+_fun|custom_\w+|traced|shard_map|scan)\b"
)


def largest(folder: pathlib.Path, program: str) -> dict[str, float]:
    """Shares of the device's busy time, the largest first: of parts, or of kernels without one.

    Args:
      folder: that the newest trace is in.
      program: the compiled program's text, which says of which module an operation is.
    """
    file = max(folder.rglob("*.xplane.pb"), key=lambda path: path.stat().st_mtime)
    modules, spent = paths(program), Counter()
    planes = list(ProfileData.from_file(str(file)).planes)
    on_gpu = [plane for plane in planes if "GPU" in plane.name]
    for plane in on_gpu or planes:
        for line in plane.lines:
            if on_gpu and not line.name.startswith("Stream"):
                continue  # the same time again, by module or by step
            for event in line.events:
                stats = dict(event.stats)
                name = str(stats.get("hlo_op", event.name))
                if name in modules:
                    spent[part_of(modules[name])] += event.duration_ns
                elif on_gpu:
                    spent[f"kernel {event.name[:60]}"] += event.duration_ns
    whole = sum(spent.values())
    return {name: ns / whole for name, ns in spent.most_common(KEPT)}


def paths(program: str) -> dict[str, str]:
    """Of every operation of a compiled program, the path that it was traced under."""
    return dict(re.findall(r'%?([\w.\-]+) = [^\n]*?op_name="([^"]*)"', program))


def part_of(path: str) -> str:
    """The modules in a path, and whether it is of the backward pass.

    "jit(f)/transpose(jvp(Llama))/while/body/layers/mlp/dot_general" is "layers/mlp, backward".
    """
    words = [word for word in path.split("/") if word]
    modules = [word for word in words[:-1] if not _AROUND.match(word)]
    name = "/".join(modules[-2:]) or (words[-1] if words else "?")
    return f"{name}, backward" if "transpose(" in path else name
