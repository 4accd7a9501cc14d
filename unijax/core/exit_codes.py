"""Exit statuses of the command, and what each says to whoever may start it again.

79 to 125 are free: the shell and Python have those below (`sysexits.h` 64 to 78), and 126 and above
tell of signals (128 + number).
"""

DONE = 0
CHECK_FAILED = 1  # Python's own for a traceback, too
MISTAKE = 2  # in the input, or of the machine: started again, it ends the same
DEVICE_LOST = 82  # an accelerator failed
UNWRITABLE = 83  # a place that could be written no longer can: a full disk, a share that went away
HUNG = 84  # it did not go on; below PEER_LOST: the others of the run may hang for its sake
PREEMPTED = 85  # SIGTERM came, the state is saved, the same command resumes
PEER_LOST = 86  # another process, or the network between, went away
INTERRUPTED = 130  # Ctrl-C
UNREAD = 141  # who read what it prints is gone: 128 + SIGPIPE, as of other programs

# 143: SIGTERM before there was anything to save.
PREEMPTION = (PREEMPTED, 143)
# 134: the runtime aborts a process that lost its coordinator. 135, 137: bus error, killed (memory).
NODE_FAILURE = (DEVICE_LOST, UNWRITABLE, HUNG, PEER_LOST, 134, 135, 137)


def failure(code: int) -> str:
    """The class of a failure: "preempted", "node", "mistake", or "bug" for what is left.

    Where the processes of a run end with several codes, the least of them other than 0 is the
    cause: those that only lost a peer, or were killed for it, end with greater ones.
    """
    assert code != DONE
    if code in PREEMPTION:
        return "preempted"
    if code in NODE_FAILURE:
        return "node"
    return "mistake" if code == MISTAKE else "bug"
