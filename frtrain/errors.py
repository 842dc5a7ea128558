"""The errors a user can act on. Commands print them without a traceback and exit with their code."""

from __future__ import annotations


class FrtrainError(Exception):
    """A problem with a clear cause and a remedy, both in the message.

    Attributes:
        exit_code: of the command.
        everywhere: every process of a run raises it alike, so that one of them tells it for all.
    """

    exit_code = 1
    everywhere = False


class ConfigError(FrtrainError):
    """A key, value or choice in the configuration is wrong. The message names the key."""

    exit_code = 2


class DataError(FrtrainError):
    """A data set, file or folder cannot be used. The message names it."""


class ImageError(DataError):
    """One image file cannot be decoded to RGB pixels.

    Attributes:
        path: the file.
        reason: a short phrase without the path, fit for a report column.
    """

    def __init__(self, path: object, reason: str):
        super().__init__(f"{path}: {reason}")
        self.path = str(path)
        self.reason = reason

    def __reduce__(self) -> tuple[type[ImageError], tuple[str, str]]:
        return ImageError, (self.path, self.reason)  # decoding happens in worker processes


class CheckpointError(FrtrainError):
    """A checkpoint cannot be written, read, or does not belong to this run. The message names it."""


class TrainingError(FrtrainError):
    """Training cannot go on: the message says which tensor or step stopped it."""

    everywhere = True


class EndedElsewhereError(FrtrainError):
    """Another process of the run has failed. Its own message says why."""
