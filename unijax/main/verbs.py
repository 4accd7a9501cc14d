"""What each verb of the command line does. Libraries are imported when they are needed."""

import argparse
import math
import pathlib
import sys
import tempfile
from typing import Any

from unijax.core import storage
from unijax.core.errors import UserError
from unijax.core.files import writable_directory
from unijax.core.paths import is_address, local
from unijax.main import config as config_lib
from unijax.main.run import RunConfig, make_system, resolve
from unijax.sample.logits import Sampling
from unijax.systems.registry import recipe


def _resolved(args: argparse.Namespace) -> RunConfig:
    values = config_lib.load(args.config)
    try:
        return resolve(values, args.overrides)
    except UserError as e:
        if not e.where:  # of a key at the top
            e = UserError(args.config, e.found, e.expected, e.fix)
        raise e from None


def config_(args: argparse.Namespace) -> None:
    """`unijax config`."""
    import json

    from unijax.core.record import to_json
    from unijax.main.keys import keys

    if args.help_keys is None and args.config is None:
        raise UserError(
            "unijax config", "neither --config nor --help-keys", "one of them",
            "`--config FILE` prints a config, `--help-keys` lists the keys of all.",
        )  # fmt: skip
    run = None if args.config is None else _resolved(args)
    if args.help_keys is not None:
        print(keys(args.system if run is None else run.system, args.help_keys))
    else:
        print(json.dumps(to_json(run, whole=True), indent=1))


def _of_own_data(args: argparse.Namespace) -> RunConfig:
    """As `unijax finetune` would train on it."""
    from unijax.main.defaults import chosen
    from unijax.main.finetune import with_user_data

    if args.init_from is None:
        raise UserError(
            f"--data {args.data[0]}", "no --init-from", "the checkpoint that it is to train",
            "Give its run directory: its tokenizer says how long texts are.",
        )  # fmt: skip
    args.config = args.config or "finetune"
    run = with_user_data(_resolved(args), args.init_from, [pathlib.Path(p) for p in args.data])
    return chosen(run, pathlib.Path(args.init_from, "none"), args.overrides)


def check_(args: argparse.Namespace) -> int:
    """`unijax check`: exit status 1 where something is broken."""
    from unijax.data.tokenizer import load
    from unijax.main.checking import filling, look

    if args.config is not None and args.init_from is None:
        raise UserError(
            "--config", args.config, "it beside --init-from, whose rows it would fill",
            "Add --init-from, or leave it out.",
        )  # fmt: skip
    sheet = None if args.sheet is None else pathlib.Path(args.sheet)
    wrong = look(args.data, sheet, args.max_pixels)
    if args.init_from is not None and not wrong:
        args.overrides = []
        run = _of_own_data(args)
        print(filling(run.data, make_system(run).layout, load(run.tokenizer)).table())
    return 1 if wrong else 0


def train_(args: argparse.Namespace) -> None:
    """`unijax train`."""
    from unijax.main import distributed
    from unijax.main.checking import with_checks
    from unijax.main.train import train

    distributed.join()
    run = with_checks(_resolved(args), args.skip_bad, not args.no_check)
    _tell_done(run, args.run_dir, train(run, args.run_dir, args.init_from, args.stop_at))


def _tell_done(run: RunConfig, run_dir: str, state: Any) -> None:
    """Where the result is, and what may be done with it."""
    from unijax.core.processes import is_lead
    from unijax.train.checkpoint import step_directory

    if not is_lead():
        return
    step, steps = int(state.step), run.stage.steps
    print(f"step {step} of {steps} is saved: {step_directory(run_dir)}")
    if step < steps:
        print("The same command goes on")
    elif recipe(run.system).eats == "rows":
        print(
            f'Then: unijax sample {run_dir} --prompt "..." --out drawn; unijax export {run_dir} out'
        )


def finetune_(args: argparse.Namespace) -> None:
    """`unijax finetune`: the config's mixture over the user's own records."""
    from unijax.core.processes import is_lead
    from unijax.main import distributed
    from unijax.main.checking import checked, with_checks
    from unijax.main.defaults import chosen
    from unijax.main.finetune import with_adapters, with_user_data
    from unijax.main.train import train
    from unijax.train.resume import check_stage

    distributed.join()
    data, held_out = ([pathlib.Path(p) for p in paths] for paths in (args.data, args.held_out))
    run = with_checks(_resolved(args), args.skip_bad, not args.no_check)
    run = with_user_data(run, args.init_from, data, held_out)
    if args.lora is not None:
        run = with_adapters(run, args.lora)
    run_dir = args.run_dir
    check_stage(run_dir, run.stage.name)
    run = chosen(checked(run, pathlib.Path(run_dir)), run_dir, args.overrides)
    for line in run.chosen if is_lead() else ():
        print(line, file=sys.stderr)
    _tell_done(run, args.run_dir, train(run, run_dir, args.init_from, args.stop_at))


def plan_(args: argparse.Namespace) -> int:
    """`unijax plan`: exit status 1 where the step does not fit."""
    from unijax.main.plan import plan, topology_of
    from unijax.main.plan_search import nearest
    from unijax.main.plan_show import show, write_json
    from unijax.plan import target

    target.prepare()
    run = _resolved(args)
    if args.json is not None:  # not after minutes of compiling
        writable_directory(pathlib.Path(args.json).parent)
    given = topology_of(run, args.topology)
    cache = pathlib.Path(args.cache)
    asked = found = plan(run, given, {}, cache)
    if not asked.fits and args.tries:
        found = nearest(run, given, asked, cache, args.tries)
    print(show(args.config, found, asked))
    if args.json is not None:
        write_json(pathlib.Path(args.json), asked, found)
    return 0 if asked.fits else 1


def show_(args: argparse.Namespace) -> None:
    """`unijax show`."""
    from unijax.data import show
    from unijax.data.tokenizer import load

    if args.config is None and args.data is None:
        raise UserError(
            "unijax show", "neither --config nor --data", "a config, or data of your own",
            "Write for example --config janus_demo, or --data DATA --init-from RUN.",
        )  # fmt: skip
    run = _of_own_data(args) if args.data else _resolved(args)
    print(show.show(run.data, make_system(run).layout, load(run.tokenizer), args.rows))


def import_(args: argparse.Namespace) -> None:
    """`unijax import`: a whole checkpoint, or networks that were trained alone."""
    from unijax.interop.importing import import_checkpoint, import_parts
    from unijax.interop.peft import import_adapters

    parts = _parts(args.part)
    if args.init_from is not None and args.source is None:
        raise UserError(
            "unijax import", "--init-from without a source", "a directory of peft's adapters",
            "See unijax import --help.",
        )  # fmt: skip
    if (args.source is None) == (not parts):
        raise UserError(
            "unijax import",
            "both a source and parts" if parts else "neither a source nor a part",
            "a checkpoint directory, or --part NAME=PATH with --config",
            "See unijax import --help.",
        )
    if args.init_from is not None:
        done = import_adapters(args.source, args.init_from, args.run_dir)
    elif args.source is not None:
        done = import_checkpoint(args.source, args.run_dir, args.tokenizer, args.template)
    else:
        if args.config is None:
            raise UserError(
                "unijax import",
                "parts without --config",
                "the config whose sizes they must have",
                "Add for example --config configs/janus_pro.py:1b,stage1.",
            )
        run = resolve(config_lib.load(args.config))
        done = import_parts(
            args.run_dir, run.system, run.model, parts, args.tokenizer, args.template, run.seed
        )
    print(done)


def _parts(given: list[str]) -> dict[str, str]:
    """Places by name. Raises UserError for what is none, and for a part that is given twice."""
    parts: dict[str, str] = {}
    for text in given:
        name, equals, place = text.partition("=")
        if not (name and equals and place) or name in parts:
            found = "given twice" if name in parts else "no NAME=PATH"
            expected = "--part NAME=PATH, once for a part"
            raise UserError(f"--part {text}", found, expected, "Correct it.")
        parts[name] = str(local(place))
    return parts


def export_(args: argparse.Namespace) -> None:
    """`unijax export`."""
    from unijax.interop.exporting import export_checkpoint
    from unijax.interop.peft import export_adapters

    if not 0 < args.shard_gib < math.inf:
        raise UserError("--shard-gib", f"{args.shard_gib}", "a number above 0", "Change it.")
    if args.adapters:
        print(export_adapters(args.run_dir, args.out, args.format))
        return
    shard = int(args.shard_gib * 2**30)
    done = export_checkpoint(
        args.run_dir, args.out, args.format, args.dtype, shard, licence=args.license
    )
    print(done)


def verify_(args: argparse.Namespace) -> int:
    """`unijax verify`: exit status 1 beyond the tolerance."""
    from unijax.interop.verify import verify

    result = verify(args.run_dir, args.export_dir, args.tolerance)
    print(result)
    return 0 if result.ok else 1


def _sampling(args: argparse.Namespace) -> Sampling:
    return Sampling(temperature=args.temperature, top_k=args.top_k, top_p=args.top_p)


def sample_(args: argparse.Namespace) -> None:
    """`unijax sample`."""
    from unijax.main.draw_file import LIST, draw_file, drawn_from, read_prompts, share_of
    from unijax.main.use import open_sampler
    from unijax.sample.pictures import save_all

    if bool(args.prompt) == (args.prompts is not None):
        raise UserError(
            "unijax sample", "both --prompt and --prompts" if args.prompt else "no prompt",
            "one of --prompt WORDS and --prompts FILE", "See unijax sample --help.",
        )  # fmt: skip
    out, how = (
        pathlib.Path(args.out),
        (args.n, args.guidance, _sampling(args), args.seed, args.steps),
    )
    if args.prompts is not None:
        prompts, share = read_prompts(pathlib.Path(args.prompts)), share_of(args.share)
        storage.writable(args.out)
        sampler, checkpoint = open_sampler(args.run_dir, args.plain), drawn_from(args.run_dir)
        sampler.check_heard(_sampling(args), args.steps)
        drawn = draw_file(sampler, checkpoint, prompts, args.out, *how, share)
        listed = f"listed in {args.out}/{LIST}"
        print(f"{drawn} pictures drawn, those of {len(prompts)} prompts {listed}")
        return
    storage.writable(args.out)
    if storage.read_in(args.out, LIST) is not None:
        raise UserError(
            args.out, f"pictures that its {LIST} tells of", "a folder of their own for others",
            "Choose another --out.",
        )  # fmt: skip
    sampler = open_sampler(args.run_dir, args.plain)
    sampler.check_heard(_sampling(args), args.steps)
    drawn = sampler.draw(args.prompt, *how)
    if not is_address(args.out):
        paths = save_all(out, drawn, args.prompt)
        print(f"{len(paths) - 1} pictures, and all of them in {paths[-1]}")
        return
    with tempfile.TemporaryDirectory() as folder:
        paths = save_all(pathlib.Path(folder), drawn, args.prompt)
        storage.upload(pathlib.Path(folder), storage.normal(args.out))
    print(f"{len(paths) - 1} pictures, and all of them in {storage.join(args.out, 'grid.png')}")


def score_(args: argparse.Namespace) -> None:
    """`unijax score`."""
    from unijax.main.score import score
    from unijax.main.use import open_sampler

    print(score(lambda: open_sampler(args.run_dir), pathlib.Path(args.data)))


def ask_(args: argparse.Namespace) -> None:
    """`unijax ask`: turns from the arguments, or from the terminal until its end."""
    from unijax.main.use import converse, open_sampler, system_prompt

    sampler = open_sampler(args.run_dir)
    system = system_prompt(args.run_dir) if args.system is None else args.system
    folder = None if args.pictures is None else pathlib.Path(args.pictures)
    converse(
        sampler, system, args.image, args.question, args.max_tokens, _sampling(args), args.seed,
        folder,
    )  # fmt: skip


def demo_(args: argparse.Namespace) -> int:
    """`unijax demo`."""
    from unijax.main.demo import demo

    return demo(_resolved(args), pathlib.Path(args.run_dir))


def gallery_(args: argparse.Namespace) -> int:
    """`unijax gallery`."""
    from unijax.main.gallery import gallery

    return gallery(args.config, args.overrides, pathlib.Path(args.run_dir))


def composition_(args: argparse.Namespace) -> None:
    """`unijax composition`."""
    from unijax.main.composition import composition

    print(composition(pathlib.Path(args.run_dir)))
