"""Errors that are the user's to mend: one or two lines that name the key, never a traceback."""

import difflib
from collections.abc import Iterable

_LONGEST_LINE = 400


class UserError(Exception):
    """Something the user gave that cannot be used.

    Args:
        key: The setting, file or argument that is wrong.
        problem: What it is, what is allowed and how to mend it.
    """

    def __init__(self, key: str, problem: str) -> None:
        super().__init__(f"{key}: {brief(problem)}" if key else brief(problem))
        self.key = key


class RunFailure(Exception):  # noqa: N818 - a failure of the run, not of the user or the program
    """A run that had to stop; its last good checkpoint is kept."""


def nearest(name: str, allowed: Iterable[str], *, show: int = 8) -> str:
    """Say which valid name is nearest to a wrong one, or which there are.

    Args:
        name: The wrong name.
        allowed: The valid names.
        show: Largest number of names to list where none is near.
    """
    names = sorted(set(allowed))
    # Names with a long common prefix are alike to difflib, whatever follows: compare their ends.
    ends = {full.rsplit(".", 1)[-1].lower(): full for full in names}
    near = difflib.get_close_matches(name, names, n=1, cutoff=0.75) or [
        ends[end]
        for end in difflib.get_close_matches(name.rsplit(".", 1)[-1].lower(), ends, n=1, cutoff=0.5)
    ]
    near = near or [full for full in names if len(name) > 2 and name in full]
    if near:
        return f"did you mean {near[0]!r}?"
    if not names:
        return "there is none"
    more = f" and {len(names) - show} more" if len(names) > show else ""
    return f"there is {', '.join(names[:show])}{more}"


def brief(message: str) -> str:
    """At most two lines of a message, none of them endless."""
    lines = [" ".join(line.split()) for line in message.strip().splitlines()]
    kept = [line for line in lines if line][:2]
    return "\n".join(
        line if len(line) <= _LONGEST_LINE else line[: _LONGEST_LINE - 3] + "..." for line in kept
    )
