"""Files inside zip archives, read in place: nothing is unpacked."""

import fnmatch
import functools
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from cropjax.data.files import MOST_PIXELS
from cropjax.errors import UserError

MOST_BYTES = 8 * MOST_PIXELS  # of a file: as many pixels of four channels of 16 bits


@dataclass(frozen=True)
class Member:
    """One file of a zip archive, with as much of `pathlib.Path` as reading takes."""

    archive: Path
    path: str  # within the archive

    @property
    def name(self) -> str:
        return PurePosixPath(self.path).name

    @property
    def stem(self) -> str:
        return PurePosixPath(self.path).stem

    def read_bytes(self) -> bytes:
        archive = _opened(self.archive)
        info = archive.getinfo(self.path)
        if info.file_size > MOST_BYTES or info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise UserError(f"{self}: unfolds to more than any image has, or without bound; download the archive again")
        try:
            with archive.open(info) as file:
                return file.read(info.file_size + 1)  # no more than it says: `read()` unfolds whatever there is
        except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError) as error:
            raise UserError(f"{self}: cannot be read ({error}); download the archive again") from error

    def __str__(self) -> str:
        return f"{self.archive}/{self.path}"


@functools.cache
def _opened(archive: Path) -> zipfile.ZipFile:
    """Open once a process; reading is safe from several threads."""
    try:
        return zipfile.ZipFile(archive)
    except zipfile.BadZipFile as error:
        raise UserError(f"{archive}: is not a whole zip archive ({error}); download it again") from error
    except OSError as error:
        raise UserError(f"{archive}: cannot be read ({error.strerror})") from error


@functools.cache
def members(archive: Path) -> tuple[Member, ...]:
    """The archive's files, sorted. `UserError` for one whose path leads out of the archive."""
    names = [info.filename for info in _opened(archive).infolist() if not info.is_dir()]
    for name in names:
        if name.startswith(("/", "\\")) or ".." in PurePosixPath(name).parts or ":" in name or "\\" in name:
            raise UserError(f"{archive}: holds a file with the path {name!r}, so it is not the official one")
    return tuple(Member(archive, name) for name in sorted(names))


def matching(archive: Path, pattern: str) -> list[Member]:
    """The files whose paths match `pattern` part by part, as `Path.glob` would find them, less hidden ones."""
    parts = pattern.split("/")
    return [
        member
        for member in members(archive)
        if len(found := member.path.split("/")) == len(parts)
        and not found[-1].startswith(".")
        and all(map(fnmatch.fnmatchcase, found, parts))
    ]


def folders(archive: Path, above: str) -> list[str]:
    """The names of the folders directly in the folder `above`."""
    paths = [member.path.split("/") for member in members(archive)]
    return sorted({path[1] for path in paths if len(path) > 2 and path[0] == above})
