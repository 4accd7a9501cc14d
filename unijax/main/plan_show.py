"""A plan as text for people, and as JSON for programs."""

import json
import pathlib

from unijax.core.files import atomic_file
from unijax.main.plan import Plan
from unijax.main.plan_search import as_text


def write_json(path: pathlib.Path, asked: Plan, found: Plan) -> None:
    """Both plans; `nearest` is null where the config fits as it is, or nothing does."""
    other = found.to_json() if found is not asked else None
    with atomic_file(path) as temporary:
        temporary.write_text(json.dumps({"plan": asked.to_json(), "nearest": other}, indent=1))


def _bytes(n: float | int) -> str:
    return f"{n / 2**30:9.2f} GiB"


def show(name: str, found: Plan, asked: Plan) -> str:
    """A plan as text. `asked` is that of the config as it is, `found` the nearest that fits."""
    m, out = asked.memory, [f"{name} on {asked.topology}", asked.mesh]
    why = asked.refusal or f"{m.total / 2**30:.1f} GiB of {m.capacity / 2**30:.1f} GiB"
    out += ["fits: yes" if asked.fits else f"fits: no ({why})"]
    out += ["", "bytes per device"]
    rows = {
        "parameters": m.parameters, "optimizer": m.optimizer, "batch": m.batch,
        "temporaries": m.temporaries, "  of these gradients": m.gradients,
        "program, results": m.other, "in all": m.total, "there are": m.capacity,
    }  # fmt: skip
    out += [f"  {label:22}{_bytes(n)}" for label, n in rows.items()]
    if asked.roofline is None and asked.refusal:
        out += ["  (the compiler refused: temporaries are not known)"]
    if asked.parts:
        out += ["", f"FLOPs per {asked.unit} ({asked.amount:,.0f} {asked.unit}s a step)"]
        out += [f"  {'':12}{'forward':>10}{'true':>10}{'executed':>10}"]
        for part, p in asked.parts.items():
            figures = (p.forward, p.true, p.executed)
            out.append(f"  {part:12}" + "".join(f"{x / asked.amount:10.3g}" for x in figures))
    if asked.roofline is not None:
        out += ["", *_show_roofline(asked)]
    if not asked.fits:
        out.append("")
        if found is asked:
            out.append("no change was found that fits: take more devices, or more --tries")
        else:
            out += [
                f"nearest that fits: {as_text(found.change)}",
                f"  {'in all':22}{_bytes(found.memory.total)}",
            ]
            if found.roofline is not None:
                out += _show_roofline(found)
    return "\n".join(out)


def _show_roofline(p: Plan) -> list[str]:
    line = p.roofline
    out = ["step time (s), each resource alone"]
    out += [f"  {'compute':24}{line.compute:9.4g}", f"  {'memory':24}{line.memory:9.4g}"]
    out += [f"  collectives, {axes:11}{s:9.4g}" for axes, s in sorted(line.collectives.items())]
    out.append(
        f"  at least {line.seconds:.4g} s, MFU at most {line.mfu:.1%}; "
        f"bottleneck: {line.bottleneck}"
    )
    out.append(
        f"  one after another: {line.seconds_in_turn:.4g} s, MFU {line.mfu_in_turn:.1%}; "
        f"{p.amount / line.seconds_in_turn:,.0f} to {p.amount / line.seconds:,.0f} {p.unit}s/s"
    )
    return out
