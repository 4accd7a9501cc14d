"""What a process may have of its machine, used up: told by name, in whichever words it comes."""

import errno
import re
import resource

from unijax.core.errors import UserError

_THREADS = re.compile("can't start new thread|pthread_create|thread: Resource temporarily", re.I)
_MEMORY = re.compile(
    "Cannot allocate memory|std::bad_alloc|failed to map segment|Out of memory allocating"
    "|cannot allocate memory|Unable to allocate|RESOURCE_EXHAUSTED: Out of memory"
)


def told(error: BaseException | None) -> UserError | None:
    """The limit that an error, or what caused it, speaks of; None for another error."""
    while error is not None:
        if (found := _of(error)) is not None:
            return found
        error = error.__cause__
    return None


def _of(error: BaseException) -> UserError | None:
    said, number = str(error), getattr(error, "errno", None)
    if number in (errno.EMFILE, errno.ENFILE) or "Too many open files" in said:
        return _error("open files", _limit(resource.RLIMIT_NOFILE), "ulimit -n")
    if _THREADS.search(said):
        return _error("threads", _limit(resource.RLIMIT_NPROC), "ulimit -u, or ulimit -v")
    if isinstance(error, MemoryError) or number == errno.ENOMEM or _MEMORY.search(said):
        return _error("memory", _limit(resource.RLIMIT_AS), "ulimit -v", said)
    return None


def _limit(kind: int) -> str:
    soft, _ = resource.getrlimit(kind)
    return "no limit set" if soft == resource.RLIM_INFINITY else f"a limit of {soft:,}"


def _error(what: str, limit: str, command: str, said: str = "") -> UserError:
    first = (said.splitlines() or [""])[0][:150]
    return UserError(
        f"this machine's {what}", f"none left ({limit}{f'; {first}' * bool(first)})",
        "more than this command needs",
        f"Raise it ({command}), or give the command less to do.",
    )  # fmt: skip
