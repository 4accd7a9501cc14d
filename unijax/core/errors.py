"""Exceptions for what a user can cause, and for what happens to a run."""


class UserError(ValueError):
    """A mistake in the input. Says where, what was found, what was expected and what to do.

    The command line prints it as one message, without a traceback, and exits with status 2.
    """

    def __init__(self, where: str, found: str, expected: str, fix: str):
        self.where, self.found, self.expected, self.fix = where, found, expected, fix
        super().__init__(f"{where}: found {found}; expected {expected}. {fix}")


class Unwritable(UserError):
    """A place that could be written no longer can. The same command resumes, once it can be.

    The command line exits with status 83.
    """


class Preempted(Exception):
    """The run was asked to end (SIGTERM), and has saved. The same command resumes it."""

    def __init__(self, step: int):
        self.step = step
        super().__init__(f"preempted; saved step {step}. The same command resumes")
