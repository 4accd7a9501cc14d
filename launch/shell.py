"""Pieces of shell scripts that several engines share."""

import shlex
from collections.abc import Sequence

from unijax.core import exit_codes
from unijax.launch.spec import Launch, Run

PORT = 8476  # of JAX's coordinator, on machines that run one process of one run


def quoted(argv: Sequence[str]) -> str:
    """A command as one line of shell."""
    return shlex.join(argv)


def environment(launch: Launch, run: Run | None = None) -> list[str]:
    """Lines that enter the working directory and the environment."""
    lines = [f"cd {shlex.quote(launch.workdir)} || exit"] if launch.workdir else []
    lines += launch.setup.splitlines()
    lines += [f"export {name}={shlex.quote(value)}" for name, value in launch.env.items()]
    if run is not None:
        lines.append(f"export UNIJAX_JOB={shlex.quote(run.job)}")
    return lines


def _any_of(codes: Sequence[int]) -> str:
    """A pattern of `case`."""
    return " | ".join(map(str, codes))


CLASSIFY = f"""\
# The class of a failure, from the exit codes of all processes, one a line in file $1.
failure() {{
    case "$(grep -vx 0 "$1" | sort -n | head -n 1)" in
    {_any_of(exit_codes.PREEMPTION)}) echo preempted ;;
    "" | {_any_of(exit_codes.NODE_FAILURE)}) echo node ;;
    {exit_codes.MISTAKE}) echo mistake ;;
    *) echo bug ;;
    esac
}}"""
