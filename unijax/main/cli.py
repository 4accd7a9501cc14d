"""The `unijax` command. Each verb imports what it needs when it is called."""

import argparse
import contextlib
import difflib
import errno
import importlib.metadata
import itertools
import math
import os
import select
import sys
import traceback
import types
from collections.abc import Callable, Sequence
from typing import Any

from unijax.core import (
    exit_codes,
    heap,
    quiet,  # noqa: F401  (libraries say less)
)
from unijax.core.errors import Interrupted, Preempted, Unwritable, UserError
from unijax.core.files import OF_DISK
from unijax.core.json_files import shown
from unijax.core.paths import local
from unijax.main import addresses, interrupts, launch_verbs, limits, scaling_verbs


def _unraisable(what: Any) -> None:
    """What was raised where Python has nobody to tell."""
    if isinstance(what.exc_value, KeyboardInterrupt):
        interrupts.again()
    else:
        _others(what)


_others = sys.unraisablehook  # of `core.quiet`
sys.unraisablehook = _unraisable


class _Help(argparse.HelpFormatter):
    """Says the default of an argument that has one."""

    def _get_help_string(self, action: argparse.Action) -> str:
        text = action.help or ""
        shown = action.default not in (None, False, "", []) and action.option_strings
        if not shown or action.default is argparse.SUPPRESS or "%(default)" in text:
            return text
        return f"{text} (%(default)s)".strip()


class _Parser(argparse.ArgumentParser):
    """One clear line for a wrong flag, with the nearest right one."""

    def __init__(self, **options):
        super().__init__(allow_abbrev=False, formatter_class=_Help, **options)

    def check_flags(self, words: Sequence[str]) -> None:
        """Ends with a message at the first flag that is none: argparse would first miss others."""
        for word in itertools.takewhile(lambda w: w != "--", words):
            name = word.partition("=")[0]
            if name.startswith("--") and name not in self._option_string_actions:
                flags = [f for f in self._option_string_actions if f.startswith("--")]
                near = difflib.get_close_matches(name, flags, 1)
                hint = f"Did you mean {near[0]}?" if near else f"See `{self.prog} --help`."
                self.exit(exit_codes.MISTAKE, f"error: {self.prog}: unknown flag {name}. {hint}\n")

    def error(self, message: str):
        help_ = f"See `{self.prog} --help`."
        self.exit(exit_codes.MISTAKE, f"error: {self.prog}: {message}. {help_}\n")


def _place(text: str) -> str:
    """A path of this machine, as the command line gives it."""
    try:
        local(text)
    except UserError as e:
        raise argparse.ArgumentTypeError(str(e).rstrip(".")) from None
    return text


# Arguments that hold words, not places.
_WORDS = {"overrides", "changes", "prompt", "question", "system", "name", "title", "help_keys"}


def _finite(text: str) -> float:
    with contextlib.suppress(ValueError):
        if math.isfinite(value := float(text)):
            return value
    raise argparse.ArgumentTypeError(f"found {text!r}; expected a finite number")


def _strict(verb: str, parser: argparse.ArgumentParser) -> None:
    """No address in an argument that takes none, and no number that is none."""
    for action in parser._actions:
        if addresses.may_be(verb, action.dest):
            continue
        if action.type is None and action.nargs != 0 and action.dest not in _WORDS:
            action.type = _place
        elif action.type is float:
            action.type = _finite


def _config_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--config",
        required=True,
        metavar="FILE[:ARG]",
        help="a file of configs/, with its argument",
    )
    parser.add_argument(
        "overrides",
        nargs="*",
        metavar="key=value",
        help="changes to the config, as stage.steps=100",
    )


_SKIP_BAD = 0.01  # share of records, where none is said


def _check_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--no-check", action="store_true",
        help="do not decode all pictures of your own data before the first step",
    )  # fmt: skip
    parser.add_argument(
        "--skip-bad", type=float, nargs="?", const=_SKIP_BAD, default=0.0, metavar="SHARE",
        help="leave out records that are broken, up to this share (0.01 without a number); the run "
        "also goes on where records have come or gone",
    )  # fmt: skip


def _sampling_flags(parser: argparse.ArgumentParser, temperature: float) -> None:
    parser.add_argument("--temperature", type=float, default=temperature, help="0 is greedy")
    parser.add_argument("--top-k", type=int, default=0, help="0 keeps all")
    parser.add_argument("--top-p", type=float, default=1.0, help="1 keeps all")
    parser.add_argument("--seed", type=int, default=0, help="of every random choice")


def _version() -> str:
    try:
        return importlib.metadata.version("unijax")
    except importlib.metadata.PackageNotFoundError:
        return "of a checkout that is not installed"


def _parsers() -> tuple[_Parser, dict[str, _Parser]]:
    """The command's own, and that of every verb."""
    top = _Parser(prog="unijax", description="Unified multimodal models in JAX.")
    top.add_argument("--version", action="version", version=f"unijax {_version()}")
    verbs = top.add_subparsers(dest="verb", required=True, parser_class=_Parser)

    p = verbs.add_parser("train", help="run one stage of a config, or resume it")
    _config_flags(p)
    p.add_argument("--run-dir", required=True, help="checkpoints, metrics and samples go here")
    p.add_argument("--init-from", help="run directory whose parameters the stage starts from")
    p.add_argument(
        "--stop-at", type=int, help="save and stop at this step; the same command resumes"
    )

    _check_flags(p)

    p = verbs.add_parser("finetune", help="train an imported checkpoint on your own data")
    _config_flags(p)
    p.add_argument("--init-from", required=True, help="run directory that `unijax import` wrote")
    p.add_argument(
        "--data",
        required=True,
        action="append",
        help="JSON, Parquet, a WebDataset archive, or a folder of pictures or of such files",
    )
    p.add_argument(
        "--held-out",
        action="append",
        default=[],
        help="as --data, for validation",
    )
    p.add_argument("--run-dir", required=True, help="checkpoints, metrics and samples go here")
    p.add_argument(
        "--stop-at", type=int, help="save and stop at this step; the same command resumes"
    )
    p.add_argument(
        "--lora", type=int, metavar="RANK", help="train low-rank adapters of the decoder alone"
    )

    _check_flags(p)

    p = verbs.add_parser("check", help="decode all of your own data; tell all that is broken")
    p.add_argument("data", nargs="+", help="as --data of finetune; several are looked at in turn")
    p.add_argument("--sheet", metavar="PNG", help="file for a contact sheet of its pictures")
    p.add_argument("--config", metavar="FILE[:ARG]", help="to fill rows with it, as finetune would")
    p.add_argument("--init-from", help="for the same: run directory of the checkpoint")
    p.add_argument("--max-pixels", type=int, default=50_000_000, help="more are refused")

    p = verbs.add_parser("plan", help="compile a config's train step for hardware that is not here")
    _config_flags(p)
    p.add_argument("--topology", help="as v5p:4x4x8, v5e:16x16*2 or h100:8*4; the config's if none")
    p.add_argument("--json", help="file for the plan as JSON")
    p.add_argument("--cache", default=".plan", help="folder of what was compiled before")
    p.add_argument(
        "--tries", type=int, default=12,
        help="if it does not fit, so many changes are compiled to find one that does; 0 for none",
    )  # fmt: skip

    p = verbs.add_parser("show", help="print rendered and packed rows as text")
    p.add_argument("--config", metavar="FILE[:ARG]", help="of a file, or of one that is shipped")
    p.add_argument("--data", action="append", help="your own, as finetune would read it")
    p.add_argument("--init-from", help="for --data: run directory whose sizes and tokenizer count")
    p.add_argument("overrides", nargs="*", metavar="key=value", help="changes to the config")
    p.add_argument("--rows", type=int, default=2, help="how many")

    p = verbs.add_parser("config", help="list the keys of a config, or print one, resolved")
    p.add_argument("--config", metavar="FILE[:ARG]", help="of a file, or of one that is shipped")
    p.add_argument(
        "--help-keys", nargs="?", const="", metavar="KEY",
        help="type, default and meaning of every key, or of those below one, as stage.optimizers",
    )  # fmt: skip
    p.add_argument("--system", default="janus", help="whose keys, where no --config is given")
    p.add_argument("overrides", nargs="*", metavar="key=value")

    p = verbs.add_parser("sample", help="draw pictures from text")
    p.add_argument("run_dir")
    p.add_argument("--prompt", action="append", default=[], help="words to draw; may be repeated")
    p.add_argument(
        "--prompts",
        metavar="FILE",
        help="a prompt a line, or JSONL; what is drawn already stays, and "
        "is refused where it was drawn otherwise",
    )
    p.add_argument(
        "--share", default="0/1", metavar="INDEX/COUNT",
        help="of --prompts, for several processes that write to one folder",
    )  # fmt: skip
    p.add_argument("--out", required=True, help="folder for the PNG files and grid.png")
    p.add_argument("-n", type=int, default=4, help="pictures of each prompt")
    p.add_argument("--guidance", type=float, help="1 is without; the system's own if not given")
    p.add_argument(
        "--steps", type=int, help="of denoising, where there is any; the system's own if not given"
    )
    p.add_argument(
        "--plain", action=argparse.BooleanOptionalAction,
        help="prompts are captions alone, or stand in the template's turns; as the run learned to "
        "draw if neither is said, in turns if it learned both",
    )  # fmt: skip
    _sampling_flags(p, temperature=1.0)

    p = verbs.add_parser("ask", help="ask about pictures, or without; several turns, or a talk")
    p.add_argument("run_dir")
    p.add_argument("question", nargs="*", help="one turn each, @PATH shows a picture; none: a talk")
    p.add_argument("--image", action="append", default=[], help="shown before the first question")
    p.add_argument("--max-tokens", type=int, default=256, help="of an answer")
    p.add_argument("--pictures", metavar="DIR", help="draws the pictures of answers into it")
    p.add_argument("--system", help="put before the first question; what the run records if none")
    _sampling_flags(p, temperature=0.0)

    p = verbs.add_parser("score", help="perplexity of texts, or choices ranked by likelihood")
    p.add_argument("run_dir")
    p.add_argument("--data", required=True, help="text file, or JSONL of texts or of choices")

    p = verbs.add_parser("import", help="PyTorch weights into a run directory")
    p.add_argument("source", nargs="?", help="directory of a whole checkpoint (docs/weights.md)")
    p.add_argument("--run-dir", required=True)
    p.add_argument("--config", help="for parts: the config whose sizes they must have")
    p.add_argument(
        "--part", action="append", default=[], metavar="NAME=PATH",
        help="a network that was trained alone, by the name that the system has for it",
    )  # fmt: skip
    p.add_argument("--tokenizer", help="for parts: directory of the tokenizer")
    p.add_argument("--template", help="of conversations; the source's if none")
    p.add_argument("--init-from", help="the source holds peft's adapters of this run directory")

    p = verbs.add_parser("export", help="a run directory into PyTorch weights")
    p.add_argument("run_dir")
    p.add_argument("out")
    p.add_argument("--format", help="one of the system's (docs/weights.md); its first if none")
    p.add_argument("--adapters", action="store_true", help="the run's adapters alone, for peft")
    p.add_argument("--shard-gib", type=float, default=5.0, help="most of one file")
    p.add_argument("--dtype", choices=("float32", "bfloat16", "float16"))
    p.add_argument(
        "--license", help="a file, or a name as mit; what the import brought along if none"
    )

    p = verbs.add_parser("verify", help="live outputs of a run directory against its export")
    p.add_argument("run_dir")
    p.add_argument("export_dir")
    p.add_argument("--tolerance", type=float, default=1e-4, help="relative, of each output")

    p = verbs.add_parser("demo", help="train a small Janus, and look at what it draws and says")
    p.add_argument("--run-dir", default="demo", help="all of it goes here")
    p.add_argument("--config", default="configs/janus_demo.py", help="what is trained")
    p.add_argument("overrides", nargs="*", metavar="key=value")

    p = verbs.add_parser("gallery", help="train small ones of several systems, side by side")
    p.add_argument("--config", action="append", required=True, metavar="FILE[:ARG]")
    p.add_argument("--run-dir", default="gallery", help="a run directory for each goes in here")
    p.add_argument("overrides", nargs="*", metavar="key=value")

    p = verbs.add_parser("composition", help="score what a run never saw together in training")
    p.add_argument("run_dir")

    scaling_verbs.add_parsers(verbs)

    launch_verbs.add_parsers(verbs)
    for verb, parser in verbs.choices.items():
        _strict(verb, parser)
    return top, verbs.choices


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The arguments of a verb in any order, or an exit with one clear line."""
    words = list(sys.argv[1:] if argv is None else argv)
    top, verbs = _parsers()
    if not words or words[0].startswith("-"):
        return top.parse_args(words)
    if words[0] not in verbs:
        near = difflib.get_close_matches(words[0], verbs, 1)
        hint = f"Did you mean {near[0]}?" if near else "See `unijax --help`."
        top.exit(exit_codes.MISTAKE, f"error: unijax: unknown verb {words[0]!r}. {hint}\n")
    verb, words = words[0], words[1:]
    for i, (flag, behind) in enumerate(itertools.pairwise(words)):
        if flag == "--skip-bad" and "=" in behind:  # a change of the config, no share
            words[i] = f"{flag}={_SKIP_BAD}"
    verbs[verb].check_flags(words)
    args = verbs[verb].parse_intermixed_args(words)
    args.verb = verb
    return args


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a verb. Returns the exit status, one of `core.exit_codes`."""
    args = parse(argv)
    try:
        with interrupts.told():
            status = _run(args)
    except Exception as e:
        distributed = _distributed()
        status = distributed.status_of(e) if distributed else exit_codes.CHECK_FAILED
        if status == exit_codes.CHECK_FAILED and not _is_one_of_several():
            raise
        traceback.print_exception(e)
    failed = status not in (exit_codes.DONE, exit_codes.PREEMPTED)
    if failed and _is_one_of_several():
        _distributed().leave(status)
    return status


def _distributed() -> types.ModuleType | None:
    """The module, where JAX is in use; JAX is not loaded for it."""
    if "jax" not in sys.modules:
        return None
    from unijax.main import distributed

    return distributed


def _is_one_of_several() -> bool:
    distributed = _distributed()
    return distributed is not None and distributed.is_one_of_several()


def _verb(name: str) -> Callable[[argparse.Namespace], int | None]:
    for light in (launch_verbs, scaling_verbs):
        if hasattr(light, name):
            return getattr(light, name)
    from unijax.main import verbs

    return getattr(verbs, name)


def _is_unread() -> bool:
    """Whether who read what this command prints is gone, as `head` is after its lines."""
    pipe = select.poll()
    pipe.register(sys.stdout.fileno(), 0)
    if not pipe.poll(0):
        return False
    # What Python flushes at its end goes nowhere, instead of failing again.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return True


def _run(args: argparse.Namespace) -> int:
    try:
        addresses.fetch(args)
        status = _verb(f"{args.verb}_")(args) or exit_codes.DONE
        sys.stdout.flush()
        return status
    except UserError as e:
        print(f"error: {e}", file=sys.stderr)
        return exit_codes.UNWRITABLE if isinstance(e, Unwritable) else exit_codes.MISTAKE
    except Preempted as e:
        print(e, file=sys.stderr)
        return exit_codes.INTERRUPTED if isinstance(e, Interrupted) else exit_codes.PREEMPTED
    except BrokenPipeError:
        if not _is_unread():
            raise
        return exit_codes.UNREAD
    except PermissionError as e:
        told = UserError(
            str(e.filename), "a path that this user may not open", "one that it may",
            "Change its owner or mode, or choose another.",
        )  # fmt: skip
        print(f"error: {told}", file=sys.stderr)
        return exit_codes.MISTAKE
    except Exception as e:
        if (limit := limits.told(e)) is not None:
            print(f"error: {limit}", file=sys.stderr)
            return exit_codes.MISTAKE
        if not isinstance(e, OSError):
            raise
        if e.errno in (errno.ENAMETOOLONG, errno.ELOOP):
            where = shown(str(e.filename))
            told = UserError(where, e.strerror, "a path that can be", "Correct it.")
            print(f"error: {told}", file=sys.stderr)
            return exit_codes.MISTAKE
        if e.errno not in OF_DISK:
            raise
        where, found = e.filename or "the disk", e.strerror or "cannot be written"
        told = UserError(where, found, "a writable place with free space", "Free some; repeat.")
        print(f"error: {told}", file=sys.stderr)
        return exit_codes.UNWRITABLE
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return exit_codes.INTERRUPTED


def command() -> None:
    """The program `unijax`."""
    heap.use_few_arenas()
    status = main()
    if status == exit_codes.INTERRUPTED:
        interrupts.leave(status)
    sys.exit(status)


if __name__ == "__main__":
    command()
