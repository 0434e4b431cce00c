"""What a command is given on its line -> images, one after the other.

    street.jpg            a file: its outputs are called `street`
    images/               a folder, with all folders in it: `berlin/street` for images/berlin/street.jpg
    'images/**/*.png'     a pattern, in quotes where the shell should leave it: as the folder before the first * of it
    film.mp4              a video: `film_000000`, `film_000001`, ... for its frames, of whatever rate
    -                     standard input: a file or a folder a line

All in the order of the line, and sorted by path within a folder or a pattern. In a folder are taken: what ends in one
of `IMAGES` or `VIDEOS`, nothing hidden, and no link to another folder.
"""

import dataclasses
import glob
import os
import re
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path

import cv2
import numpy as np

from cropjax.data.ahead import ahead
from cropjax.data.files import read_photograph
from cropjax.errors import UserError

IMAGES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff")
VIDEOS = (".mp4", ".m4v", ".mov", ".avi", ".mkv", ".webm", ".mpg", ".mpeg")
_NUMBER = "######"  # of a frame, in the name of a video
_WILD = re.compile(r"[*?\[]")
os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "8")  # what is wrong with a video is said once, by us


@dataclasses.dataclass(frozen=True)
class Input:
    """A file: `name` is what its outputs are called, a path without suffix; `film_######` for the frames of a video."""

    path: Path
    name: str

    @property
    def is_video(self) -> bool:
        return _is_video(self.path)

    def names(self) -> list[str]:
        """Of its images; of a video's frames by what it says of itself, and one of a video that cannot be opened."""
        if not self.is_video:
            return [self.name]
        count = round(_capture(self.path).get(cv2.CAP_PROP_FRAME_COUNT))
        return [self.frame(index) for index in range(max(count, 1))]

    def frame(self, index: int) -> str:
        """The name of a video's frame."""
        return f"{self.name.removesuffix(_NUMBER)}{index:06d}"


def find(arguments: Iterable[str], lines: Iterable[str], without: Path) -> list[Input]:
    """The files that the `arguments` name, each once; `lines` are those of `-`, and `without` a folder to leave out.

    Raises:
        UserError: there are none, or one is not there; or the outputs of two would have one name.
    """
    found = []
    for argument in arguments:
        if argument == "-":
            found += [one for line in lines if line.strip() for one in _named(line.rstrip("\r\n"), without)]
        elif _WILD.search(argument) and not os.path.exists(argument):
            found += _matching(argument, without)
        else:
            found += _named(argument, without)
    found = list({(one.path.resolve(), one.name): one for one in found}.values())
    if not found:
        looked = ", ".join(arguments) or "nothing"
        raise UserError(f"no images in {looked}: name files, folders or patterns of {', '.join(IMAGES + VIDEOS)}")
    _check_names(found)
    return found


def _named(text, without):
    path = Path(text).expanduser()
    if os.path.isdir(path):
        return _in_folder(path, path, without)
    if not os.path.exists(path):  # of os: a name that is too long is one that is not there
        raise UserError(f"{text}: there is no such file or folder")
    return [_input(path, path.stem)]


def _matching(pattern, without):
    pattern = os.path.expanduser(pattern)
    fixed = _WILD.split(pattern)[0]
    root, found = Path(os.path.dirname(fixed)), []
    for path in map(Path, sorted(glob.glob(pattern, recursive=True))):
        if path.is_dir() and "**" not in pattern:
            found += _in_folder(path, root, without)
        elif path.is_file() and _taken(path, without):
            found.append(_below(root, path))
    if not found:
        raise UserError(f"{pattern}: no image or video matches")
    return found


def _in_folder(folder, root, without):
    def fail(error):
        raise UserError(f"{error.filename}: this folder cannot be listed ({error.strerror}): leave it out, or mend it")

    found = []
    for place, folders, files in os.walk(folder, onerror=fail):
        folders[:] = [name for name in folders if not name.startswith(".") and Path(place, name).resolve() != without]
        paths = [Path(place, name) for name in files if not name.startswith(".")]
        found += [path for path in paths if _taken(path, without)]
    return [_below(root, path) for path in sorted(found)]


def _below(root, path):
    return _input(path, str(path.relative_to(root).with_suffix("")))


def _input(path, name):
    return Input(path, f"{name}_{_NUMBER}" if _is_video(path) else name)


def _is_video(path):
    return path.suffix.lower() in VIDEOS


def _taken(path, without):
    return path.suffix.lower() in IMAGES + VIDEOS and without not in path.resolve().parents


def as_frame(name: str) -> str:
    """What a video would be called that had a frame of this name, or `name` itself."""
    return re.sub(r"\d{6}$", _NUMBER, name)


def _check_names(inputs):
    taken, films = {}, {one.name for one in inputs if one.is_video}
    for one in inputs:
        film = as_frame(one.name)
        other = taken.setdefault(film if film in films else one.name, one)
        if other is not one and (other.is_video or one.is_video or other.name == one.name):
            raise UserError(
                f"{other.path} and {one.path} would both be written as {one.name}: name the folder above them, or "
                "predict them into two folders"
            )


@dataclasses.dataclass(frozen=True)
class Picture:
    """An image among many: what its outputs are called, and the file; `load` gives uint8 [h,w,3] RGB or a UserError."""

    name: str
    path: Path
    load: Callable[[], np.ndarray]


def pictures(inputs: list[Input], wanted: Callable[[str, Path], bool]) -> Iterator[Picture]:
    """Those of the images that are `wanted(name, path)`, not decoded yet but for a video's frames."""
    for one in inputs:
        if one.is_video:
            yield from _frames(one, wanted)
        elif wanted(one.name, one.path):
            yield Picture(one.name, one.path, partial(read_photograph, one.path))


def decoded(pictures: Iterable[Picture]) -> Iterator[tuple[Picture, np.ndarray | UserError]]:
    """Each picture with its pixels, or what is wrong with it; a few are decoded ahead, in threads."""

    def load(picture):
        try:
            return picture, picture.load()
        except UserError as error:
            return picture, error

    return ahead(load, pictures)


def _frames(video, wanted):
    capture, index = _capture(video.path), 0
    said = round(capture.get(cv2.CAP_PROP_FRAME_COUNT))
    while capture.grab():
        name = video.frame(index)
        index += 1
        if wanted(name, video.path):
            read, frame = capture.retrieve()
            yield Picture(name, video.path, partial(_rgb, video.path, index - 1, frame if read else None))
    if index < said - capture.get(cv2.CAP_PROP_FPS) or not index:  # some count by their length in seconds
        yield Picture(video.name, video.path, partial(_fail, video.path, index, said))
    capture.release()


def _capture(path):
    return cv2.VideoCapture(str(path))


def _rgb(path, index, frame):
    if frame is None:
        raise UserError(f"{path}: frame {index} cannot be decoded")
    return cv2.cvtColor(frame, cv2.COLOR_BGR2RGB)


def _fail(path, index, said):
    if not index:
        raise UserError(f"{path}: cannot be decoded as a video; convert it, or copy it again")
    raise UserError(f"{path}: ends after {index} of {said} frames; copy it again")
