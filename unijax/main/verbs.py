"""What each verb of the command line does. Libraries are imported when they are needed."""

import argparse
import math
import pathlib

from unijax.core.errors import UserError
from unijax.core.files import writable_directory
from unijax.main import config as config_lib
from unijax.main.run import RunConfig, make_system, resolve
from unijax.sample.logits import Sampling


def _resolved(args: argparse.Namespace) -> RunConfig:
    return resolve(config_lib.load(args.config), args.overrides)


def train_(args: argparse.Namespace) -> None:
    """`unijax train`."""
    from unijax.main import distributed
    from unijax.main.train import train

    distributed.join()
    train(_resolved(args), pathlib.Path(args.run_dir), args.init_from, args.stop_at)


def finetune_(args: argparse.Namespace) -> None:
    """`unijax finetune`: the config's mixture over the user's own records."""
    from unijax.main import distributed
    from unijax.main.finetune import with_user_data
    from unijax.main.train import train

    distributed.join()
    data, held_out = ([pathlib.Path(p) for p in paths] for paths in (args.data, args.held_out))
    run = with_user_data(_resolved(args), args.init_from, data, held_out)
    train(run, pathlib.Path(args.run_dir), args.init_from, args.stop_at)


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

    run = _resolved(args)
    print(show.show(run.data, make_system(run).layout, load(run.tokenizer), args.rows))


def import_(args: argparse.Namespace) -> None:
    """`unijax import`: a whole checkpoint, or networks that were trained alone."""
    from unijax.interop.importing import import_checkpoint, import_parts

    parts = _parts(args.part)
    if (args.source is None) == (not parts):
        raise UserError(
            "unijax import",
            "both a source and parts" if parts else "neither a source nor a part",
            "a checkpoint directory, or --part NAME=PATH with --config",
            "See unijax import --help.",
        )
    if args.source is not None:
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
        parts[name] = place
    return parts


def export_(args: argparse.Namespace) -> None:
    """`unijax export`."""
    from unijax.interop.exporting import export_checkpoint

    if not 0 < args.shard_gib < math.inf:
        raise UserError("--shard-gib", f"{args.shard_gib}", "a number above 0", "Change it.")
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
    from unijax.main.draw_file import draw_file, read_prompts, share_of
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
        writable_directory(out)
        drawn = draw_file(open_sampler(args.run_dir), prompts, out, *how, share)
        print(
            f"{drawn} pictures drawn, those of {len(prompts)} prompts listed in {out}/prompts.jsonl"
        )
        return
    drawn = open_sampler(args.run_dir).draw(args.prompt, *how)
    paths = save_all(out, drawn, args.prompt)
    print(f"{len(paths) - 1} pictures, and all of them in {paths[-1]}")


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
