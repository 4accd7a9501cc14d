"""Exceptions for what a user can cause, and for what happens to a run."""

import unicodedata

_LONGEST = 4000  # characters of a message's part: files may have put anything into it
_copied: dict[str, str] = {}  # what a copy on this machine was made of, by its path


def copied(place: str, address: str) -> None:
    """From now on messages name the address where the path of its copy would stand."""
    _copied[place] = address


def named(text: str) -> str:
    """The text with addresses in the place of paths of their copies (`copied`)."""
    for place, address in _copied.items():
        text = text.replace(place, address)
    return text


class UserError(ValueError):
    """A mistake in the input. Says where, what was found, what was expected and what to do.

    The command line prints it as one message, without a traceback, and exits with status 2. What a
    terminal would obey, not show, is escaped in it.
    """

    def __init__(self, where: str, found: str, expected: str, fix: str):
        where, found = named(where), named(found)
        self.where, self.found, self.expected, self.fix = where, found, expected, fix
        where, found, expected, fix = map(_readable, (where, found, expected, fix))
        super().__init__(f"{where}: found {found}; expected {expected}. {fix}")


def _readable(text: str) -> str:
    if len(text) > _LONGEST:
        text = f"{text[: _LONGEST // 2]} ... {text[-_LONGEST // 2 :]}"
    if text.isprintable():
        return text
    return "".join(c if _is_shown(c) else c.encode("unicode_escape").decode() for c in text)


def _is_shown(c: str) -> bool:
    """Spaces of other scripts are; Python's `isprintable` knows the plain one alone."""
    return c.isprintable() or c in "\t\n" or unicodedata.category(c) == "Zs"


class Unwritable(UserError):
    """A place that could be written no longer can. The same command resumes, once it can be.

    The command line exits with status 83.
    """


class Unreadable(Unwritable):
    """A file that was there cannot be read for now, as of a share that is away. The same command
    goes on, once it can be. The command line exits with status 83 here too."""


class Preempted(Exception):
    """The run was asked to end (SIGTERM), and has saved. The same command resumes it."""

    HOW = "preempted"

    def __init__(self, step: int):
        self.step = step
        super().__init__(f"{self.HOW}; saved step {step}. The same command resumes")


class Interrupted(Preempted):
    """The same by Ctrl-C."""

    HOW = "interrupted"
