"""What a command ends with other than its result."""


class UserError(Exception):
    """A mistake in a command, a config, a file or a folder.

    The message is one line that names the file or the config field and says how to mend it; the command line
    prints it without a traceback and exits with status 2.
    """


class Stopped(Exception):
    """A signal has asked a run to stop; everything is saved, and the same command goes on."""
