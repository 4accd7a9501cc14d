"""`unijax plan`: the train step of a config, compiled for a topology that need not be there."""

import dataclasses
import math
import pathlib
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from unijax.core import cost
from unijax.core.batch import ImageBatch
from unijax.core.errors import UserError
from unijax.core.mesh import DATA, SEQUENCE
from unijax.core.system import EncodedSystem, MaskedSystem
from unijax.core.vocab import SpecialIds
from unijax.data.batch import BatchMaker
from unijax.data.pictures import PictureConfig
from unijax.main.run import DTYPES, RunConfig, make_system
from unijax.main.train import build
from unijax.parallel.sharding import describe, make_mesh, row_shards
from unijax.plan import hardware, target
from unijax.plan.collectives import Collective, collectives, on_mesh
from unijax.plan.compiled import compile_once, digest_of, progress
from unijax.plan.expected import expected
from unijax.plan.hardware import Topology
from unijax.plan.memory import Memory, account, on_device
from unijax.plan.roofline import Roofline, roofline
from unijax.plan.traffic import traffic
from unijax.plan.work import Part, Work, work_of
from unijax.train.setup import Trainer


@dataclasses.dataclass(frozen=True)
class Plan:
    """What a compiled step says of a run on a topology.

    Attributes:
      topology, mesh: as given, and as the run would describe it.
      change: what was changed in the config; empty for the config as it is.
      digest: of the program and the versions of its compiler.
      fits: whether the compiler found room, and the bytes it found agree.
      refusal: what the compiler said where it found none.
      memory: on a device.
      amount: of `unit`s ("token" or "image") of a step, padding excluded; of tokens what
        `unijax.plan.expected` assumes.
      parts: FLOPs of a step by part.
      roofline: None where the compiler refused.
      compile_seconds: that the compiler took.
      collectives: of a step.
    """

    topology: str
    mesh: str
    change: dict[str, Any]
    digest: str
    fits: bool
    refusal: str
    memory: Memory
    amount: float
    unit: str
    parts: dict[str, Part]
    roofline: Roofline | None
    compile_seconds: float
    collectives: tuple[Collective, ...] = ()

    def to_json(self) -> dict:
        """Plain values, with what follows from others beside them."""
        out = dataclasses.asdict(self)
        out["memory"]["total"] = self.memory.total
        for one in out["collectives"]:
            one["members"] = len(one.pop("group"))
        if self.roofline is not None:
            line = self.roofline
            out["roofline"] |= {
                "seconds": line.seconds,
                "seconds_in_turn": line.seconds_in_turn,
                "bottleneck": line.bottleneck,
                "mfu": line.mfu,
                "mfu_in_turn": line.mfu_in_turn,
            }
        return out


def topology_of(run: RunConfig, text: str | None) -> Topology:
    """What is asked for, else what the config names.

    Raises:
      UserError: if neither is there, or it is none.
    """
    if not (text or run.hardware):
        raise UserError(
            "--topology",
            "none, and no hardware in the config",
            "one of them: the chips of the run",
            "Add for example --topology v5p:4x4x8 or --topology h100:8*4.",
        )
    return hardware.parse(text or run.hardware)


def abstract_batch(run: RunConfig, sharding: Any) -> Any:
    """Shapes, dtypes and shardings of a step's batch."""
    if isinstance(run.data, PictureConfig):
        d, b = run.data, run.data.batch
        shapes = {"pixels": ((b, d.size, d.size, 3), jnp.uint8), "weight": ((b,), jnp.float32)}
        shapes["seed"] = ((b,), jnp.uint32)
        if d.classes:
            shapes["label"] = ((b,), jnp.int32)
        system = make_system(run)
        if isinstance(system, MaskedSystem):
            shapes["masked"] = ((b, system.masking.grid**2), bool)
        if run.cache_frozen and isinstance(system, EncodedSystem):
            for how in system.encoded.values():
                shapes[how.field] = ((b, *how.shape), jnp.dtype(how.dtype))
        if d.text_length:
            shapes |= {"text": ((b, d.text_length), jnp.int32), "text_length": ((b,), jnp.int32)}
        return ImageBatch(
            **{n: jax.ShapeDtypeStruct(s, t, sharding=sharding) for n, (s, t) in shapes.items()}
        )
    special = SpecialIds(bos=1, eos=2, pad=0, boi=3, eoi=4, image_placeholder=5)
    one = BatchMaker(run.data, make_system(run).layout, special)
    rows = run.data.rows
    return jax.tree.map(
        lambda x: jax.ShapeDtypeStruct((rows, *x.shape[1:]), x.dtype, sharding=sharding),
        one([[]]),
    )


def _arguments(run: RunConfig, topology: Topology) -> tuple[Mesh, Trainer, Any]:
    """The mesh, the trainer and the abstract batch; nothing is compiled.

    Raises:
      UserError: where the config does not fit the topology's number of devices.
    """
    mesh = make_mesh(run.mesh, target.devices(topology))
    _, trainer = build(run, mesh)
    return mesh, trainer, abstract_batch(run, trainer.batch_sharding)


def arguments(run: RunConfig, topology: Topology) -> int:
    """Bytes of parameters, optimizer state and batch on a device, exactly; nothing is compiled.

    Raises:
      UserError: where the config does not fit the topology's number of devices.
    """
    _, trainer, batch = _arguments(run, topology)
    return on_device((trainer.abstract_state, batch))


def plan(run: RunConfig, topology: Topology, change: dict, cache: pathlib.Path | None) -> Plan:
    """Compiles the step of `run` for `topology`, or reads what was found of the same program.

    Args:
      change: what was changed in the config, to be kept.
      cache: folder of what was found before.

    Raises:
      UserError: where the config does not fit the topology's number of devices.
    """
    mesh, trainer, batch = _arguments(run, topology)
    with progress(f"{topology}: lowering"):
        lowered = trainer.train_step.lower(trainer.abstract_state, batch)
    digest = digest_of(lowered.as_text(), topology)
    compiled = compile_once(lowered, topology, digest, cache)
    memory = account(trainer.abstract_state, batch, topology.chip.memory, compiled)
    work = step_work(run, trainer)
    found = Plan(
        topology=str(topology),
        mesh=describe(mesh, run.mesh.table),
        change=change,
        digest=digest,
        fits=not compiled.refusal and memory.fits,
        refusal=compiled.refusal,
        memory=memory,
        amount=work.amount,
        unit=work.unit,
        parts=dict(work.parts),
        roofline=None,
        compile_seconds=compiled.seconds,
    )
    if not compiled.text:
        return found
    sent = collectives(compiled.text, dict(mesh.shape), _turns(run, trainer, mesh))
    return _with_roofline(found, run, topology, mesh, trainer, work, sent)


def step_work(run: RunConfig, trainer: Trainer) -> Work:
    """FLOPs by part, and how a step uses parameters."""
    system = trainer.system
    if isinstance(run.data, PictureConfig):
        images, tokens = float(run.data.batch), float(run.data.text_length)
        needed = {cost.IMAGES: images, cost.PAIRS: images**2}
        needed |= {"tokens/text": images * tokens, "pairs/text": images * tokens**2}
        return work_of(system, trainer.rules, run.remat, (images, "image"), needed)
    rows = expected(system, run.data, run.cache_frozen)
    amount = (rows.tokens, "token")
    return work_of(system, trainer.rules, run.remat, amount, rows.needed, rows.worked)


def _with_roofline(
    found: Plan,
    run: RunConfig,
    topology: Topology,
    mesh: Mesh,
    trainer: Trainer,
    work: Work,
    sent: list[Collective],
) -> Plan:
    itemsize = jnp.dtype(DTYPES[run.dtype]).itemsize
    moved = traffic(trainer.abstract_state, work, run.remat, run.accumulate, itemsize)
    line = roofline(topology, mesh.devices, sent, moved, work.true, work.executed)
    return dataclasses.replace(found, roofline=line, collectives=tuple(sent))


def carried_over(base: Plan, run: RunConfig, topology: Topology) -> Plan:
    """`base` on another number of the same chips, without compiling.

    Assumes that the program is the same but for the size of groups: as many rows a chip, the same
    axes in use. Temporaries differ by the share of gradients. Where the new mesh has replicas that
    the old one had not, their gradients are summed too, those of every part of the step.

    Args:
      base: with a roofline.
      run: of `base`, with the rows and mesh of the other topology.
    """
    mesh, trainer, batch = _arguments(run, topology)
    state = trainer.abstract_state
    gradients = on_device(state.params)
    memory = dataclasses.replace(
        base.memory,
        parameters=on_device((state.step, state.params, state.frozen, state.ema)),
        optimizer=on_device(state.opt_state),
        batch=on_device(batch),
        gradients=gradients,
        temporaries=base.memory.temporaries + gradients - base.memory.gradients,
    )
    sent = on_mesh(list(base.collectives), dict(mesh.shape))
    if mesh.shape[DATA] > 1 and not any(DATA in one.axes for one in sent):
        sum_ = Collective("all-reduce", (DATA,), (), gradients, run.accumulate, "f32")
        sent += on_mesh([sum_], dict(mesh.shape))
    work = step_work(run, trainer)
    other = dataclasses.replace(
        base,
        topology=str(topology),
        mesh=describe(mesh, run.mesh.table),
        fits=memory.fits,
        memory=memory,
        amount=work.amount,
        parts=dict(work.parts),
    )
    return _with_roofline(other, run, topology, mesh, trainer, work, sent)


def _turns(run: RunConfig, trainer: Trainer, mesh: Any) -> int:
    """Of the loops whose length is data: the chunks of a head that a device works."""
    if isinstance(run.data, PictureConfig):
        return 1
    targets = expected(trainer.system, run.data, run.cache_frozen).most_targets
    of_device = targets / run.accumulate / row_shards(mesh) / mesh.shape[SEQUENCE]
    return math.ceil(of_device / run.model.head_chunk)
