"""The photographs beneath a folder, and where their crops go."""

from __future__ import annotations

import os
from collections import Counter, deque
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Literal

from frtrain.data.images import is_image_path
from frtrain.errors import DataError

Links = Literal["inside", "follow"]


@dataclass(frozen=True)
class Listing:
    """What was found beneath a folder.

    Attributes:
        photographs: paths relative to the folder, with `/`, sorted.
        ignored: number of other files by extension, `(hidden)` and `(no extension)`.
        passed_over: sentences about links that were not followed and folders that could not be read.
        outside_links: how many links to folders outside were followed.
    """

    photographs: list[str]
    ignored: Counter[str] = field(default_factory=Counter)
    passed_over: list[str] = field(default_factory=list)
    outside_links: int = 0


def list_photographs(source: Path, target: Path, links: Links = "inside") -> Listing:
    """Find all images beneath `source`, recursively, whatever the depth.

    Links to files and folders are followed, but each real folder is read once, under its real name where it has one
    beneath `source`: loops end, a second name for a person's folder does not become a second person, and `target` is
    never read. A broken link to a photograph is listed, so that it is reported.

    Args:
        source: the folder.
        target: the folder of crops.
        links: `inside`: links that lead outside of `source` are passed over, by name; `follow`: they are followed, too.

    Raises:
        DataError: `source` is missing, is no folder, cannot be read, or holds no images.
    """
    if not source.is_dir():
        state = "is not a folder" if source.exists() else "does not exist"
        raise DataError(f"source={source} {state}: give a folder of photographs, <identity>/<image>.jpg")
    walk = _Walk(source, links, read={_identity(target)} if target.exists() else set())
    walk.read_folders("")
    while walk.links:
        walk.follow(walk.links.popleft())
    if not walk.listing.photographs:
        others = f" (other files: {describe_ignored(walk.listing.ignored)})" if walk.listing.ignored else ""
        causes = "".join(f"; {cause}" for cause in walk.listing.passed_over[:3])
        raise DataError(f"source={source} holds no images{others}{causes}: expected <identity>/<image>.jpg, .png, ...")
    walk.listing.photographs.sort()
    return Listing(
        walk.listing.photographs, walk.listing.ignored, walk.listing.passed_over, outside_links=walk.outside_links
    )


def describe_ignored(ignored: Mapping[str, int]) -> str:
    """`.txt 3, .mp4 1`, most frequent first."""
    return ", ".join(f"{extension} {count}" for extension, count in Counter(ignored).most_common())


def plan_outputs(photographs: Iterable[str], extension: str, recorded: Mapping[str, str]) -> dict[str, str]:
    """The relative path of each photograph's crop: the same folders, the same stem, `extension` (".jpg").

    Where `a.png` and `a.jpg` stand side by side, both keep their whole name (`a.png.jpg`, `a.jpg.jpg`); should even
    that be taken, a number is added. Names that an earlier call recorded stay as they are.

    Args:
        photographs: relative paths, sorted.
        extension: of the crops.
        recorded: photograph -> crop of an earlier call.
    """
    photographs = list(photographs)
    stems = Counter(_with_suffix(path, extension) for path in photographs)
    folders = {str(parent) for path in photographs for parent in PurePosixPath(path).parents}
    taken = set(recorded.values()) | folders
    outputs: dict[str, str] = {}
    for path in photographs:
        output = recorded.get(path)
        if output is None:
            plain = _with_suffix(path, extension)
            output = plain if stems[plain] == 1 and plain not in taken else _free_name(path, extension, taken, stems)
            taken.add(output)
        outputs[path] = output
    return outputs


def _with_suffix(path: str, extension: str) -> str:
    return str(PurePosixPath(path).with_suffix(extension))


def _free_name(path: str, extension: str, taken: Collection[str], stems: Mapping[str, int]) -> str:
    candidate, number = f"{path}{extension}", 2
    while candidate in taken or candidate in stems:
        candidate, number = f"{path}-{number}{extension}", number + 1
    return candidate


def _identity(path: Path) -> tuple[int, int]:
    status = path.stat()
    return status.st_dev, status.st_ino


class _Walk:
    """The state of one walk; real folders come first, the links they hold are left in `links`."""

    def __init__(self, source: Path, links: Links, read: set[tuple[int, int]]):
        self.source = source
        self._real_source = os.path.realpath(source)
        self._follows = links == "follow"
        self.listing = Listing([])
        self.links: deque[str] = deque()
        self.outside_links = 0
        self._read = read

    def follow(self, link: str) -> None:
        """Read the folder behind a link, unless it was read before."""
        if _identity(self.source / link) in self._read:
            self.listing.passed_over.append(f"{link} is a link to a folder that is read already, or to the target")
            return
        if self._leads_outside(link):
            if not self._follows:
                self._pass_over(link)
                return
            self.outside_links += 1
        self.read_folders(link)

    def _leads_outside(self, link: str) -> bool:
        return not Path(os.path.realpath(self.source / link)).is_relative_to(self._real_source)

    def _pass_over(self, link: str) -> None:
        self.listing.passed_over.append(f"{link} is a link that leads outside of the source (links=follow follows it)")

    def read_folders(self, start: str) -> None:
        """Read `start` and the real folders beneath it."""
        waiting = [start]
        while waiting:
            folder = waiting.pop()
            try:
                identity = _identity(self.source / folder)
                if identity in self._read:
                    continue
                self._read.add(identity)
                with os.scandir(self.source / folder) as entries:
                    for entry in sorted(entries, key=lambda entry: entry.name):
                        relative = f"{folder}/{entry.name}" if folder else entry.name
                        if entry.is_dir(follow_symlinks=False):
                            waiting.append(relative)
                        elif entry.is_symlink() and (self.source / relative).is_dir():
                            self.links.append(relative)
                        else:
                            self._add_file(entry, relative)
            except OSError as error:
                self.listing.passed_over.append(f"{folder or self.source} cannot be read ({error.strerror})")

    def _add_file(self, entry: os.DirEntry[str], relative: str) -> None:
        path = PurePosixPath(entry.name)
        # A broken link is listed, to be reported as unreadable; a pipe or device is not: reading it would never end.
        if is_image_path(Path(entry.name)) and (entry.is_symlink() or entry.is_file()):
            is_link = entry.is_symlink() and not self._follows and (self.source / relative).exists()
            if is_link and self._leads_outside(relative):
                self._pass_over(relative)
            else:
                self.listing.photographs.append(relative)
        elif entry.name.startswith("."):
            self.listing.ignored["(hidden)"] += 1
        else:
            self.listing.ignored[path.suffix.lower() or "(no extension)"] += 1
