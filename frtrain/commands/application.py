"""Running a verb: arguments in, exit status out. Hydra composes and sweeps; errors are told without a traceback."""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager
from importlib import import_module
from types import ModuleType
from typing import Any

import hydra
from hydra.errors import CompactHydraException
from omegaconf import DictConfig
from rich.console import Console
from rich.markup import escape

from frtrain import __version__
from frtrain.commands import VERBS, submitted
from frtrain.commands.composition import (
    Plain,
    check_homes,
    choices,
    compose_plain,
    expand_sweep,
    groups_of,
    merge_overrides,
    parse_overrides,
    plain,
    saved_overrides,
)
from frtrain.config_files import config_folder
from frtrain.errors import ConfigError, DataError, EndedElsewhereError, FrtrainError
from frtrain.schema import nearest, parse
from frtrain.signals import StoppedError, orderly_end

SWEEP_FLAGS = ("-m", "--multirun")

GRACE_SECONDS = 10.0
"""Time for torchrun to end a process whose fellow failed."""


def run_verb(arguments: Sequence[str]) -> int:
    """Run `[VERB] [key=value ...]` and return the exit status (0 done, 1 failed, 2 bad configuration, 130 Ctrl-C)."""
    verb, arguments = _split(arguments)
    with orderly_end():
        return _run_in_order(verb, arguments)


def _run_in_order(verb: str, arguments: list[str]) -> int:
    try:
        if any(flag in arguments for flag in ("-h", "--help")):
            _print_help(verb)
            return 0
        if "--version" in arguments:
            print(f"frtrain {__version__}")
            return 0
        flags = [argument for argument in arguments if argument.startswith("-")]
        overrides = [_named(verb, argument) for argument in arguments if not argument.startswith("-")]
        sweep = any(flag in SWEEP_FLAGS for flag in flags)
        submitted.check_launcher(overrides, sweep)
        with _process_group(verb):
            if sweep or not flags:
                with _all_or_none():
                    overrides = _with_saved_overrides(overrides)
                    _check(verb, overrides, sweep)
            return _run_hydra(verb, [*flags, *overrides] if sweep or not flags else arguments, sweep)
    except FrtrainError as error:
        return _tell(error)
    except OSError as error:
        return _tell(_of_system(error))
    except KeyboardInterrupt:
        Console(stderr=True, emoji=False).print("interrupted", style="yellow")
        return 130


def _split(arguments: Sequence[str]) -> tuple[str, list[str]]:
    if arguments and not arguments[0].startswith("-") and "=" not in arguments[0]:
        verb, rest = arguments[0], list(arguments[1:])
        if verb not in VERBS:
            _tell(ConfigError(f"{verb}: unknown verb{nearest(verb, VERBS)} (known: {', '.join(VERBS)})"))
            sys.exit(2)
        return verb, rest
    return "train", list(arguments)


def _module(verb: str) -> ModuleType:
    return import_module(f"frtrain.commands.{verb}")


def _named(verb: str, argument: str) -> str:
    """`inspect losses` means `inspect what=losses`: a verb may name the key that a bare word sets."""
    key = getattr(_module(verb), "POSITIONAL", None)
    return f"{key}={argument}" if key and "=" not in argument and argument[:1].isalpha() else argument


def _with_saved_overrides(overrides: list[str]) -> list[str]:
    """`resume=PATH` goes on with the overrides that its run was started with; new ones win."""
    given = {item.key_or_group: item.value() for item in parse_overrides(overrides)}
    if str(given.get("resume", "auto")) in ("auto", "never"):
        return overrides
    if given.get("run_dir") is not None:
        raise ConfigError("resume=PATH goes on in that run's own folder; leave run_dir out")
    if given.get("init_from") is not None:
        raise ConfigError("init_from starts a new run, and resume=PATH goes on with one: leave one of them out")
    from frtrain.training.run_folder import run_folder_of

    return merge_overrides(saved_overrides(run_folder_of(str(given["resume"])) / "overrides.yaml"), overrides)


def _check(verb: str, overrides: list[str], sweep: bool) -> None:
    """Everything that can be known to be wrong is told before anything is built, for every job of a sweep."""
    module = _module(verb)
    for job in expand_sweep(overrides) if sweep else [overrides]:
        values = compose_plain(verb, job)
        check_homes(values)
        config = parse(module.Config, values)
        if hasattr(module, "check"):
            module.check(config)


def _run_hydra(verb: str, arguments: list[str], sweep: bool) -> int:
    module = _module(verb)
    statuses: list[int] = []

    def task(composed: DictConfig) -> None:
        values = plain(composed)
        if submitted.is_submitted():
            _run_submitted(verb, values)
            return
        try:
            statuses.append(module.run(parse(module.Config, values)) or 0)
        except StoppedError as stopped:
            sys.exit(_tell(stopped))  # ends a sweep, too
        except FrtrainError as error:
            statuses.append(_tell(error))
        except OSError as error:
            statuses.append(_tell(_of_system(error)))
        if statuses[-1] and (not sweep or _processes() > 1):  # several may have failed at different places
            sys.exit(statuses[-1])

    sys.argv = [f"frtrain {verb}", *arguments]
    hydra.main(version_base="1.3", config_path=str(config_folder()), config_name=verb)(task)()
    return max(statuses, default=0)


def _run_submitted(verb: str, values: Plain) -> None:
    """A task of a job that submitit has started, on another machine as a rule; what fails is told there and here."""
    module = _module(verb)
    try:
        submitted.join_tasks()
        values = submitted.with_folder_of_the_job(values)
        with _process_group(verb):
            with _all_or_none():
                config = parse(module.Config, values)
                if hasattr(module, "check"):
                    module.check(config)
            module.run(config)
    except StoppedError as stopped:
        _tell(stopped)
        submitted.queue_again(stopped)
    except FrtrainError as error:
        _tell(error)
        raise CompactHydraException(f"{type(error).__name__}: {error}") from None


def _processes() -> int:
    return int(os.environ.get("WORLD_SIZE", "1"))


def _process_group(verb: str) -> AbstractContextManager[None]:
    """That of torchrun's processes, where there are several and the verb works with them."""
    if _processes() == 1 or verb != "train":
        return contextlib.nullcontext()
    from frtrain.training.distributed import process_group

    return process_group()


def _all_or_none() -> AbstractContextManager[None]:
    """Within this context several processes fail together, with one message."""
    if _processes() == 1:
        return contextlib.nullcontext()
    from frtrain.processes import Processes
    from frtrain.training.distributed import all_or_none

    return all_or_none(Processes.current())


def _leave_the_word_to_others(error: FrtrainError) -> None:
    """Let the process that tells what happened end first: torchrun then ends this one, and names that one's status."""
    if error.exit_code:
        time.sleep(1.0 if isinstance(error, StoppedError) else GRACE_SECONDS)


def _of_system(error: OSError) -> FrtrainError:
    """What the operating system refuses anywhere, as a name that is too long; raised on where it names no file."""
    if error.filename is None:
        raise error
    return DataError(f"{os.fsdecode(error.filename)}: {error.strerror or error}")


def _tell(error: FrtrainError) -> int:
    rank, several = int(os.environ.get("RANK", "0")), _processes() > 1
    if several and error.everywhere and rank > 0:
        _leave_the_word_to_others(error)
        return error.exit_code
    if isinstance(error, EndedElsewhereError):
        _leave_the_word_to_others(error)
    where = f"rank {rank}: " if several and not error.everywhere else ""
    with contextlib.suppress(BrokenPipeError):
        label, color = "error:", "red"
        if isinstance(error, ConfigError):
            label = "configuration:"
        elif isinstance(error, StoppedError):
            label, color = "stopped", "yellow"
        Console(stderr=True, soft_wrap=True, emoji=False).print(
            f"[bold {color}]{label}[/] {escape(where + str(error))}", highlight=False
        )
    return error.exit_code


def _print_help(verb: str) -> None:
    console = Console(soft_wrap=True, highlight=False, emoji=False)
    module = _module(verb)
    console.print(f"[bold]python -m frtrain {verb}[/] key=value ...    {VERBS[verb]}\n")
    console.print(escape(module.EXAMPLES.strip()), style="cyan")
    groups = [group for group in groups_of(verb) if choices(group)]
    if groups:
        console.print("\n[bold]Choices[/] (group=option)")
    for group in groups:
        console.print(f"  {group}={escape(' | '.join(choices(group)))}")
    console.print("\n[bold]Keys and defaults[/] (key=value; nested keys with dots)")
    console.print(escape(_as_lines(compose_plain(verb, [], partial=True))))
    console.print("\n[bold]Sweeps[/]: -m key=a,b,c runs all combinations.  [bold]Other verbs[/]: " + ", ".join(VERBS))


def _as_lines(values: Plain, prefix: str = "  ") -> str:
    lines: list[str] = []

    def walk(node: dict[str, Any], path: str) -> None:
        for key, value in node.items():
            if isinstance(value, dict) and value:
                walk(value, f"{path}{key}.")
            else:
                shown = "null" if value is None else str(value).lower() if isinstance(value, bool) else value
                lines.append(f"{prefix}{path}{key}={shown}")

    walk(values, "")
    return "\n".join(lines)
