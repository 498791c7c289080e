"""Every error that a user can meet, its exit code, and how it is worded.

An error says what was given, why that cannot work and what to type instead. `cli` prints it and exits with its
`exit_code`; Python callers catch the class, or the standard exception it also is. The codes are those of `os.EX_*`
where one exists.
"""

from __future__ import annotations

from collections.abc import Sequence

CODES = {
    "USAGE-01": "An option, command or value is not known.",
    "USAGE-02": "A value has the wrong type or is out of range.",
    "USAGE-03": "A required option is missing.",
    "USAGE-04": "A name is not in its registry.",
    "DATA-01": "A data file cannot be parsed at all.",
    "DATA-02": "A row cannot be parsed.",
    "DATA-03": "A row has a field that is missing, empty or of the wrong type.",
    "DATA-04": "The columns of a data set fit no known format.",
    "DATA-05": "No row is left to train on.",
    "DATA-06": "A conversation does not fit its template.",
    "DATA-07": "A directory of prepared rows does not fit this run, or is damaged.",
    "TEMPLATE-01": "A chat template is not the model's own.",
    "MODEL-01": "A model directory is incomplete or damaged.",
    "MODEL-02": "This kind of model is not supported.",
    "CKPT-01": "A checkpoint is incomplete or damaged.",
    "CKPT-02": "An adapter does not fit the model.",
    "CKPT-03": "An adapter cannot be written in another format.",
    "MERGE-01": "A merge cannot be done or would not be equal.",
    "FOUND-01": "A file or directory does not exist.",
    "FOUND-02": "A hub id could not be fetched.",
    "HUB-01": "A hub does not take the token, or there is none.",
    "HUB-02": "A hub does not allow what was asked.",
    "HUB-03": "What a hub has is not what was sent, or asked for.",
    "HUB-04": "What would leave this machine holds secrets or its paths.",
    "PACKAGE-01": "A package is missing, too old or broken.",
    "RUN-01": "Training produced a number that is not finite.",
    "RUN-02": "A worker process failed.",
    "RUN-03": "A run that was repeated gave other numbers.",
    "RUN-04": "Processes that train together make no progress.",
    "RUN-05": "A machine of a group was lost, or never came.",
    "RUN-06": "Training needs more memory than there is.",
    "RECEIPT-01": "A receipt of a run cannot be read.",
    "INTERNAL-01": "An unexpected error: a bug of ours.",
    "OUTPUT-01": "An output path cannot be written or is in use.",
    "DISK-01": "The disk is full or will be.",
    "REFUSED-01": "The model wants to run its own code and nobody allowed it.",
    "CONFIG-01": "A configuration file cannot be read.",
    "CONFIG-02": "Options contradict each other.",
    "CONFIG-03": "The machine cannot do what was asked.",
    "SERVER-01": "An address cannot be listened on.",
    "SERVER-02": "A server would let anybody in.",
    "SERVER-03": "A public link could not be made.",
    "SERVER-04": "The engine was closed.",
    "SERVER-05": "Too many requests wait already.",
}


class SwiftError(Exception):
    """An error for the user: `what` happened, `why`, and the `fix` to type.

    Args:
        code: a key of `CODES`, such as "DATA-03".
        what: one line; names the file, line and key, or the option and its value.
        why: one line, or None when `what` says it all.
        fix: one line with what to type, or None when nothing can be done.
    """

    exit_code = 70

    def __init__(self, code: str, what: str, *, why: str | None = None, fix: str | None = None) -> None:
        assert code in CODES, f"{code} is not in CODES"
        super().__init__(what)
        self.code, self.what, self.why, self.fix = code, what, why, fix

    def __reduce__(self) -> tuple[object, ...]:  # from another process
        return _again, (type(self), self.code, self.what, self.why, self.fix)

    def __str__(self) -> str:  # KeyError and OSError children would otherwise show a repr
        lines = [f"error[{self.code}]: {self.what}"]
        lines += [f"  why: {self.why}"] if self.why else []
        lines += [f"  fix: {self.fix}"] if self.fix else []
        return "\n".join(lines)


def _again(cls: type[SwiftError], code: str, what: str, why: str | None, fix: str | None) -> SwiftError:
    return cls(code, what, why=why, fix=fix)


class UsageError(SwiftError, ValueError):
    """A mistake in what was typed."""

    exit_code = 2


class UnknownNameError(UsageError, KeyError):
    """A name that no registry row, option or command has."""


class DataError(SwiftError, ValueError):
    """Bad data, a damaged checkpoint, an adapter that does not fit."""

    exit_code = 65


class NotFoundError(SwiftError, FileNotFoundError):
    """An input file, model or checkpoint that does not exist."""

    exit_code = 66


class MissingPackageError(SwiftError, ImportError):
    """An optional package that this command needs."""

    exit_code = 69


class UnavailableError(SwiftError, OSError):
    """Something of this machine that is taken or does not exist, such as a port."""

    exit_code = 69


class InternalError(SwiftError, RuntimeError):
    """A failure inside the run: a bug, a NaN, a lost worker."""

    exit_code = 70


class OutputError(SwiftError, OSError):
    """An output path that cannot be created or is in use."""

    exit_code = 73


class DiskError(SwiftError, OSError):
    """An input/output error, most often a full disk."""

    exit_code = 74


class TemporaryError(SwiftError, OSError):
    """A hub or network that did not answer: trying again may help; `after` so many seconds, where they are known."""

    exit_code = 75
    after: float | None = None


class RefusedError(SwiftError, PermissionError):
    """Something that is not done without being asked for."""

    exit_code = 77


class ConfigError(SwiftError, ValueError):
    """Values that parse but contradict each other or the machine."""

    exit_code = 78


class SeveralErrors(SwiftError, ValueError):
    """Several mistakes found in one check; exits with the code of the first."""

    def __init__(self, errors: Sequence[SwiftError]) -> None:
        first = errors[0]
        super().__init__(first.code, first.what, why=first.why, fix=first.fix)
        self.errors, self.exit_code = list(errors), first.exit_code

    def __reduce__(self) -> tuple[object, ...]:
        return SeveralErrors, (self.errors,)

    def __str__(self) -> str:
        return "\n".join(str(error) for error in self.errors)


def brief(error: BaseException) -> str:
    """What an error of a library says in its first line; the name of its kind where it says nothing."""
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)


def raise_all(errors: Sequence[SwiftError]) -> None:
    """Raise nothing, the only error, or all of them as one."""
    if len(errors) == 1:
        raise errors[0]
    if errors:
        raise SeveralErrors(errors)
