"""What a compiled program sends between devices, from its text (XLA's HLO, after partitioning)."""

import dataclasses
import functools
import math
import re
from collections import defaultdict

import numpy as np

_BITS = {
    "pred": 8, "s4": 4, "u4": 4, "s8": 8, "u8": 8, "s16": 16, "u16": 16, "f16": 16, "bf16": 16,
    "s32": 32, "u32": 32, "f32": 32, "s64": 64, "u64": 64, "f64": 64, "f8e4m3fn": 8, "f8e5m2": 8,
}  # fmt: skip
KINDS = ("all-gather", "all-reduce", "reduce-scatter", "all-to-all", "collective-permute")

_HEAD = re.compile(r"^(?:ENTRY )?%?([\w.\-]+) \(.*\) -> .* \{$")
_ARRAY = re.compile(r"\b(\w+)\[([\d,]*)\]")
_CALL = re.compile(r"= (.*?) (" + "|".join(KINDS) + r")(-start)?\((.*)")
_CALLED = re.compile(
    r"(?:calls|to_apply|branch_computations|called_computations)=\{?(%?[^,}\s]+(?:, %[^,}\s]+)*)"
)
_WHILE = re.compile(r"condition=%?([\w.\-]+), body=%?([\w.\-]+)")
_TRIPS = re.compile(r'known_trip_count":\{"n":"(\d+)"')


@dataclasses.dataclass(frozen=True)
class Collective:
    """One instruction, as often as a step runs it.

    Attributes:
      kind: one of `KINDS`.
      axes: of the mesh, over which its groups extend.
      group: devices of one group, by their number in the mesh.
      bytes: of its largest array on a device: the result of a gather, else the argument.
      times: how often a step runs it.
      dtype: of that array.
    """

    kind: str
    axes: tuple[str, ...]
    group: tuple[int, ...]
    bytes: int
    times: int
    dtype: str

    @property
    def sent(self) -> float:
        """Bytes that every member passes on, as a ring does it."""
        n = len(self.group)
        share = 2 * (n - 1) / n if self.kind == "all-reduce" else (n - 1) / n
        return self.bytes * self.times * (1.0 if self.kind == "collective-permute" else share)


def collectives(text: str, mesh_shape: dict[str, int], dynamic_trips: int = 1) -> list[Collective]:
    """Those of a compiled program.

    Args:
      text: `compiled.as_text()`.
      mesh_shape: size of every axis, in the order in which devices are numbered.
      dynamic_trips: of a loop whose number of turns the program finds out when it runs.
    """
    bodies, entry = _computations(text)
    times = _how_often(bodies, entry, dynamic_trips)
    found, chains = [], set()
    for name, lines in bodies.items():
        for line in lines:
            call = _CALL.search(line)
            if call is None or not times[name]:
                continue
            result, kind, started, rest = call.groups()
            # TPU: one that is worked in pieces, between other work, is in every piece.
            chain = re.search(r'chain_id="(\d+)"', rest)
            if chain is not None:
                if chain[1] in chains:
                    continue
                chains.add(chain[1])
            group = _group(kind, rest, mesh_shape)
            if len(group) < 2:
                continue
            if started and kind != "all-reduce":
                # A tuple of argument and result, some with a word of context after them.
                result = _top_level(result)[kind == "all-gather"]
            arrays = [_size(a) for a in _ARRAY.findall(result)]
            size, dtype = sum(a[0] for a in arrays), max(arrays)[1]
            if kind == "reduce-scatter" and not started:
                size *= len(group)  # the result is a share of the argument
            if "all-reduce-scatter" in name:
                kind = "reduce-scatter"  # TPU: a sum of which each device keeps its slice
            found.append(
                Collective(kind, _axes(group, mesh_shape), group, size, times[name], dtype)
            )
    return found


def on_mesh(found: list[Collective], mesh_shape: dict[str, int]) -> list[Collective]:
    """The same on a mesh whose axes have other sizes, where every device has as many rows.

    Bytes are then the same: a gather's result and a scatter's argument are whole, and what is
    exchanged has more parts of smaller ones. Over axes of size 1 nothing is sent.
    """
    numbers = np.arange(math.prod(mesh_shape.values())).reshape(tuple(mesh_shape.values()))

    def group(axes: tuple[str, ...]) -> tuple[int, ...]:
        line = numbers[tuple(slice(None) if a in axes else 0 for a in mesh_shape)]
        return tuple(int(n) for n in line.flat)

    moved = [dataclasses.replace(one, group=group(one.axes)) for one in found]
    return [one for one in moved if len(one.group) > 1]


def _size(array: tuple[str, str]) -> tuple[int, str]:
    dtype, shape = array
    count = math.prod(int(n) for n in shape.split(",") if n)
    return count * _BITS.get(dtype, 0) // 8, dtype


def _top_level(text: str) -> list[str]:
    """The members of a tuple: `(f32[2]{0}, (s32[], s32[]))` has two."""
    members, depth = [""], 0
    for letter in text.strip()[1:-1]:
        depth += (letter in "([{") - (letter in ")]}")
        if letter == "," and depth == 0:
            members.append("")
        else:
            members[-1] += letter
    return members


def _computations(text: str) -> tuple[dict[str, list[str]], str]:
    """Lines of every computation by name, and the name of the first that runs."""
    bodies: dict[str, list[str]] = {}
    entry, lines = "", []
    for line in text.splitlines():
        head = _HEAD.match(line)
        if head is not None:
            lines = bodies.setdefault(head[1], [])
            if line.startswith("ENTRY"):
                entry = head[1]
        elif line.startswith(" "):
            lines.append(line)
    return bodies, entry


def _how_often(bodies: dict[str, list[str]], entry: str, dynamic_trips: int) -> dict[str, int]:
    """Times that a step runs each computation."""
    callers = defaultdict(list)
    for name, lines in bodies.items():
        for line in lines:
            if loop := _WHILE.search(line):
                known = _TRIPS.search(line)
                turns = int(known[1]) if known else _trips(bodies.get(loop[1], []))
                callers[loop[2]].append((name, turns or dynamic_trips))
            for names in _CALLED.findall(line):
                for called in names.split(", "):
                    callers[called.lstrip("%")].append((name, 1))

    @functools.cache
    def count(name: str) -> int:
        if name == entry:
            return 1
        return sum(turns * count(caller) for caller, turns in callers[name])

    return {name: count(name) for name in bodies}


def _trips(condition: list[str]) -> int | None:
    """Of a loop that counts up to a constant."""
    constants = [re.search(r"%?([\w.\-]+) = s32\[\]\S* constant\((\d+)\)", x) for x in condition]
    values = {m[1]: int(m[2]) for m in constants if m}
    compares = [line for line in condition if "direction=LT" in line or "ROOT" in line]
    for line in compares:
        for name, value in values.items():
            if re.search(rf"%?{re.escape(name)}\b", line.split("=", 1)[1]):
                return value
    return None


def _group(kind: str, rest: str, mesh_shape: dict[str, int]) -> tuple[int, ...]:
    """The devices that the first device of a group talks with, itself included."""
    everyone = math.prod(mesh_shape.values())
    if kind == "collective-permute":
        pairs = re.search(r"source_target_pairs=\{(.*?)\}\}", rest)
        following = dict(re.findall(r"(\d+),(\d+)", pairs[1])) if pairs else {}
        # Followed round: the devices that pass something on to each other.
        chain, at = [], next(iter(following), None)
        while at is not None and at not in chain:
            chain.append(at)
            at = following.get(at)
        return tuple(sorted(map(int, chain)))
    listed = re.search(r"replica_groups=\{\{([\d,]+)\}", rest)
    if listed:
        return tuple(map(int, listed[1].split(",")))
    iota = re.search(r"replica_groups=\[([\d,]+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?", rest)
    if iota:
        shape, dims = ([int(n) for n in x.split(",")] for x in (iota[1], iota[2]))
        order = np.arange(math.prod(dims)).reshape(dims)
        if iota[3]:
            order = order.transpose([int(n) for n in iota[3].split(",")])
        return tuple(int(n) for n in order.reshape(shape)[0])
    named = re.search(
        r"replica_groups=mesh\[([^\]]*)\](?:, device_ids=\((.*?)\)\)?)? ?\{(.*?)\}", rest
    )
    if named:
        return _of_named(*named.groups())
    return tuple(range(everyone))


def _of_named(sizes: str, order: str | None, over: str) -> tuple[int, ...]:
    """The first group of `mesh['a'=4,'b'=2], device_ids=([4,2]T(1,0)) {'a'}`."""
    axes = {name: int(size) for name, size in re.findall(r"'(\w+)'=(\d+)", sizes)}
    ids = np.arange(math.prod(axes.values()))
    if order is not None:
        dims, _, moved = order.partition("T(")
        ids = ids.reshape([int(n) for n in re.findall(r"\d+", dims)])
        if moved:
            ids = ids.transpose([int(n) for n in re.findall(r"\d+", moved)])
    ids = ids.reshape(tuple(axes.values()))
    along = re.findall(r"'(\w+)'(?!:)", over)
    if not set(along) == set(re.findall(r"'(\w+)'", over)):
        raise ValueError(f"groups over a part of an axis: {over}")
    return tuple(int(n) for n in ids[tuple(slice(None) if a in along else 0 for a in axes)].flat)


def _axes(group: tuple[int, ...], mesh_shape: dict[str, int]) -> tuple[str, ...]:
    places = np.array(np.unravel_index(group, tuple(mesh_shape.values())))
    return tuple(a for a, along in zip(mesh_shape, places) if len(set(along.tolist())) > 1)
