"""What a command ends with other than its result."""

import re


class UserError(Exception):
    """A mistake in a command, a config, a file or a folder.

    The message is one line that names the file or the config field and says how to mend it; the command line
    prints it without a traceback and exits with status 2.
    """


class Stopped(Exception):
    """A signal has asked a run to stop; everything is saved, and the same command goes on."""


def one_line(error):
    """What any exception says, as a `UserError` says it; of a field that is not there, which was meant."""
    text = str(error.args[0]) if error.args else type(error).__name__
    meant = re.search(r'Did you mean \\?"(\w+)', text)
    unknown = re.search(r"""["'](\w+)\\?["']""", text)
    if isinstance(error, AttributeError | KeyError) and unknown:
        return f"there is no field {unknown[1]!r}" + (f"; did you mean {meant[1]!r}?" if meant else "")
    return " ".join(text.split())
