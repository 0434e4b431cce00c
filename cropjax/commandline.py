"""What all commands share: `python -m cropjax.<command> --config FILE [--workdir DIR] [--config.field=value ...]`.

A user's mistake ends in one line and exit status 2, never in a traceback.
"""

import sys
import traceback
from pathlib import Path

from absl import app, flags, logging
from ml_collections import config_flags

from cropjax.errors import UserError

CONFIG = config_flags.DEFINE_config_file("config", None, "A file under configs/.", lock_config=True)
WORKDIR = flags.DEFINE_string("workdir", None, "The run folder; default: runs/<name of the config file>.")


def run(command):
    """Parses the flags and calls `command(config, workdir)` with a validated config and the run folder's path."""
    logging.set_verbosity(logging.WARNING)
    app.run(lambda _: _guarded(_start, command), flags_parser=lambda argv: _guarded(_parse, argv))


def _guarded(function, *args):
    try:
        return function(*args)
    except UserError as error:
        print(f"cropjax: {error}", file=sys.stderr)
        sys.exit(2)


def _parse(argv):
    try:
        rest = flags.FLAGS(argv, known_only=False)
    except flags.Error as error:
        raise UserError(_one_line(error)) from error
    except FileNotFoundError as error:
        raise UserError(f"--config: there is no file {error.filename}; configs/ has the ones that come with us") from error
    except Exception as error:  # the config file is Python: whatever it raises is the user's to see
        raise UserError(f"--config: {_where(error)}{_one_line(error)}") from error
    if CONFIG.value is None:
        raise UserError("--config is missing: name a file, for example --config configs/demo.py")
    if len(rest) > 1:
        raise UserError(f"cannot use {' '.join(rest[1:])}: options begin with --, overrides are --config.field=value")
    return rest


def _start(command):
    from cropjax.config import validate  # imports JAX: not before the flags are known to be good

    name = Path(config_flags.get_config_filename(flags.FLAGS["config"])).stem
    command(validate(CONFIG.value), Path(WORKDIR.value or Path("runs", name)))


def _one_line(error):
    return " ".join(str(error.args[0] if error.args else error).split()) or type(error).__name__


def _where(error):
    """The last line of a config file that an error passed through, `configs/x.py:12: `."""
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        if "configs" in Path(frame.filename).parts:
            return f"{Path(frame.filename).name}:{frame.lineno}: "
    return ""
