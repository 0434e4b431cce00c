"""What all commands share: `python -m cropjax.<command> --config FILE [--workdir DIR] [--config.field=value ...]`.

A user's mistake ends in one line and exit status 2, never in a traceback. A run that a signal has stopped ends with
status 0, as a finished one does, or with what CROPJAX_SAVED_STATUS says, by which schedulers can tell the two apart.
"""

import contextlib
import errno
import os
import stat
import sys
import traceback
from pathlib import Path

from absl import app, flags, logging
from ml_collections import config_flags

from cropjax import distributed
from cropjax.errors import Stopped, UserError, one_line

OF_THE_FOLDER = (errno.EACCES, errno.EPERM, errno.EROFS, errno.EEXIST, errno.ENOTDIR, errno.ENOSPC, errno.EDQUOT)
CONFIG = config_flags.DEFINE_config_file("config", None, "A file under configs/.", lock_config=True)
WORKDIR = flags.DEFINE_string("workdir", None, "The run folder; default: runs/NAME of configs/NAME.py.")


def run(command, *, joins=False, read=None):
    """Parses the flags and calls `command(config, workdir)` with a validated config and the run folder's path.

    One that `joins` does its work together with the other processes of a run, see `distributed`. Where the file is no
    config of a run, `read` makes of it what `command` is called with. What `command` returns is the exit status.
    """
    logging.set_verbosity(logging.WARNING)
    app.run(lambda _: _guarded(_start, command, joins, read), flags_parser=lambda argv: _guarded(_parse, argv))


def run_without_config(command, *, takes_arguments=False):
    """As `run`, for a command whose flags say all: calls `command()`.

    One that `takes_arguments` is called as `command(arguments)`, with what else is on the command line.
    """
    logging.set_verbosity(logging.WARNING)
    app.run(
        lambda rest: _guarded(command, *([rest[1:]] if takes_arguments else [])),
        flags_parser=lambda argv: _guarded(_parse_flags, argv, takes_arguments),
    )


def run_on_run(command, *, joins=False, takes_arguments=False):
    """As `run`, for what is done with a run that is there: without --config it is the run's own.

    One that `takes_arguments` is called as `command(config, workdir, arguments)`, with the words that are no flags.
    What `command` returns is the exit status; None is 0.
    """
    logging.set_verbosity(logging.WARNING)
    app.run(
        lambda rest: _guarded(_start, command, joins, None, *([rest[1:]] if takes_arguments else [])),
        flags_parser=lambda argv: _guarded(_parse_on_run, argv, takes_arguments),
    )


def complain(text):
    """A line on standard error."""
    print(f"cropjax: {_printable(text)}", file=sys.stderr)


def _guarded(function, *args):
    try:
        return function(*args)
    except Stopped:
        sys.exit(int(os.environ.get("CROPJAX_SAVED_STATUS", 0)))
    except UserError as error:
        complain(str(error))
        distributed.leave(2)
    except KeyboardInterrupt:
        print("cropjax: interrupted", file=sys.stderr)
        distributed.leave(130)
    except Exception as error:
        if isinstance(error, OSError) and error.errno in OF_THE_FOLDER:
            place = _printable(str(error.filename or "the disk"))
            print(f"cropjax: {place}: {error.strerror}; mend that, or name another folder", file=sys.stderr)
            distributed.leave(2)
        if not distributed.several():
            raise
        distributed.leave_after(error)


def _parse_flags(argv, takes_arguments):
    flags.FLAGS.set_gnu_getopt()  # flags may follow arguments
    try:
        rest = flags.FLAGS(argv)
    except flags.Error as error:
        raise UserError(one_line(error)) from error
    if (len(rest) > 1 and not takes_arguments) or CONFIG.present or WORKDIR.present:
        raise UserError(f"cannot use {' '.join(argv[1:])}: this command has flags of its own, see --help")
    return rest


def _parse(argv):
    with _what_is_wrong_with("config"):
        rest = flags.FLAGS(argv)
        if CONFIG.value is None:
            raise UserError("--config is missing: name a file, for example --config configs/demo.py")
        read_config(CONFIG)
    _check_no_arguments(rest)
    return rest


def _check_no_arguments(rest):
    if len(rest) > 1:
        raise UserError(f"cannot use {' '.join(rest[1:])}: options begin with --, overrides are --config.field=value")


def _parse_on_run(argv, takes_arguments):
    with _what_is_wrong_with("config"):
        try:
            rest = flags.FLAGS(argv)
        except flags.UnrecognizedFlagError as error:
            if error.flagname.startswith("config.") and not CONFIG.present:
                raise UserError(f"--{error.flagname} changes a file's config: name the run's with --config") from error
            raise
    if CONFIG.value is None and WORKDIR.value is None:
        raise UserError("--workdir is missing: name the folder of a run, for example --workdir runs/demo")
    if CONFIG.value is not None:
        read_config(CONFIG)
    if not takes_arguments:
        _check_no_arguments(rest)
    return rest


def read_config(flag):
    """The config of a flag for config files; UserError that says what is wrong with the file."""
    with _what_is_wrong_with(flag.name):
        flag.value.keys()  # a file that could not be read says so only now
    return flag.value


@contextlib.contextmanager
def _what_is_wrong_with(name):
    try:
        yield
    except (UserError, flags.Error) as error:
        raise UserError(one_line(error)) from error
    except OSError as error:
        file = config_flags.get_config_filename(flags.FLAGS[name])
        raise UserError(f"--{name}: cannot read {file}; the files that come with us are in configs/") from error
    except SyntaxError as error:
        raise UserError(f"--{name}: {error.filename}:{error.lineno}: {error.msg}") from error
    except Exception as error:  # the config file is Python: whatever it raises is the user's to see
        raise UserError(f"--{name}: {_where(error)}{one_line(error)}") from error


def _start(command, joins, read, arguments=None):
    if "xla_force_host_platform_device_count" in os.environ.get("XLA_FLAGS", ""):
        # A device that waits for others holds a thread for each exchange that it has begun, and XLA has a thread a
        # device: one device with two of them leaves none for the last, and all wait for ever.
        os.environ.setdefault("PJRT_NPROC", "256")
    import jax  # slow: not before the flags are known to be good

    from cropjax.validation import validate
    from cropjax.workdir import run_config

    config = (read or validate)(run_config(WORKDIR.value) if CONFIG.value is None else CONFIG.value)
    with distributed.together() if joins else contextlib.nullcontext():
        jax.config.update("jax_cpu_enable_async_dispatch", False)  # see host_memory.py
        workdir = Path(WORKDIR.value or _default_workdir("runs/studies" if read else "runs"))
        if jax.config.jax_compilation_cache_dir is None:  # a run that starts again need not compile again
            _cache_programs(workdir.absolute().parent / ".xla-cache")
        return command(config, workdir) if arguments is None else command(config, workdir, arguments)


def _cache_programs(folder):
    """Keeps compiled programs in `folder`, unless others may write there: what lies in it is run."""
    import jax

    if folder.exists():
        about = folder.lstat()
        if about.st_uid != os.getuid() or about.st_mode & stat.S_IWOTH:
            logging.warning("%s is not used: others can write there; JAX_COMPILATION_CACHE_DIR names another", folder)
            return
    jax.config.update("jax_compilation_cache_dir", str(folder))


def _printable(text):
    """A name out of a file may hold what a terminal obeys."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


def _default_workdir(folder):
    return Path(folder, config_name(config_flags.get_config_filename(flags.FLAGS["config"])))


def config_name(path):
    """What a run is called: the stem of `configs/demo.py`, and `demo_segnext` of `configs/demo.py:segnext`."""
    file, _, argument = path.partition(":")
    return Path(file).stem + (f"_{argument}" if argument else "")


def _where(error):
    """The last line of a config file that an error passed through, `configs/x.py:12: `."""
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        if "configs" in Path(frame.filename).parts:
            return f"{Path(frame.filename).name}:{frame.lineno}: "
    return ""
