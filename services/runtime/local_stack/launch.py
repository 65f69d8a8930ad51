"""Becomes another program that dies with its parent: `launch.py PARENT_PID NICENESS PROGRAM [ARGUMENT…]`.

Run as a script by a bare interpreter. The parent-death signal is set here, after the fork and before the
exec, and not in a `preexec_fn`, because that runs Python code between fork and exec in a process that may
hold threads (gRPC has several), which can deadlock.
"""

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1


def main() -> None:
    """Set the signal and the niceness, which is added to the caller's, then become the program.

    Ends with status 127 when the program cannot be executed.
    """
    parent, niceness, program = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3:]
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:  # the parent died before the signal was set, so it will never be sent
        sys.exit(1)
    os.nice(niceness)
    try:
        os.execvp(program[0], program)
    except OSError as error:
        print(f"cannot execute {program[0]}: {error.strerror}", file=sys.stderr)
        sys.exit(127)


if __name__ == "__main__":
    main()
