"""The command line of every launcher: parse flags, run the program, turn a user's mistake into one line."""

import difflib
import errno
import itertools
import os
import re
import signal
import sys
import textwrap
import threading
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from absl import flags, logging

from diffjax.errors import Stopped, UserError, unknown_name
from diffjax.files import is_full_disk

EXIT_USER_ERROR = 2
_LOST = (errno.EROFS, errno.EIO, errno.ESTALE, errno.ENOTCONN, errno.EHOSTDOWN)  # of a file system that was there
EXIT_INTERRUPTED = 130
_INDENT = " " * 8
HELP = ("-h", "-help", "--help")


class Command(NamedTuple):
    """A program with flags; ``description`` is the text of its help page, or makes it.

    ``argument`` names the flag whose value may stand alone on the command line. ``special_page`` makes another help
    page of the flags that stand beside ``--help``, or nothing.
    """

    main: Callable[[flags.FlagValues], None]
    define_flags: Callable[[flags.FlagValues], None]
    description: str | Callable[[], str] | None = None
    required: tuple[str, ...] = ()
    argument: str = ""
    special_page: Callable[[flags.FlagValues], str] | None = None


def run(command: Command, argv: Sequence[str] | None = None) -> int:
    """Parses the command line, runs a command and returns the exit status; see :func:`launch`."""
    text = command.description() if callable(command.description) else command.description
    if command.argument:
        program, *given = sys.argv if argv is None else argv
        argv = [program, *(one if one.startswith("-") else f"--{command.argument}={one}" for one in given)]
    return launch(
        command.main,
        command.define_flags,
        description=text,
        required=command.required,
        argv=argv,
        special_page=command.special_page,
    )


def launch(
    main: Callable[[flags.FlagValues], None],
    define_flags: Callable[[flags.FlagValues], None],
    *,
    description: str | None,
    required: Sequence[str] = (),
    argv: Sequence[str] | None = None,
    special_page: Callable[[flags.FlagValues], str] | None = None,
) -> int:
    """Parse the command line, run ``main`` with the flags and return the exit status.

    ``define_flags`` defines the flags on the empty ``FlagValues`` it is given. Help texts may begin with
    what stands for the value, ``"DIR: folder of results"``; ``description`` (the launcher's docstring) opens
    the help page, so it is the place for examples. ``required`` names the flags that have no default.

    Status 0: done, or ``--help``. Status 2 and one line on stderr: unknown flag, bad flag value, stray
    argument, missing required flag, ``UserError``, full disk. Status 130 and one line: interrupted; 143 or 75: asked to
    stop by SIGTERM, or out of time. A reader
    of stdout that went away (``| head``) ends the program with status 1. Any other exception propagates.
    """
    quieten()
    arguments = list(sys.argv if argv is None else argv)
    program = Path(arguments[0]).name
    values = flags.FlagValues()
    define_flags(values)
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # an ASCII terminal shows "?" for "±" instead of a traceback
            stream.reconfigure(errors="replace")
    if threading.current_thread() is threading.main_thread() and signal.getsignal(signal.SIGINT) is signal.SIG_DFL:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        if any(argument in HELP for argument in arguments[1:]):
            special = _special(special_page, values, arguments) if special_page is not None else ""
            print(special or help_page(values, arguments[0], description, required))
        else:
            parse(values, arguments, required)
            main(values)
        sys.stdout.flush()
        return 0
    except UserError as error:
        return complain(program, str(error), EXIT_USER_ERROR)
    except Stopped as error:
        return complain(program, str(error), error.status)
    except KeyboardInterrupt:
        return complain(program, "interrupted", EXIT_INTERRUPTED)
    except BrokenPipeError:
        _settle_stdout()
        return 1
    except Exception as error:
        if isinstance(error, OSError) and error.errno == errno.ENAMETOOLONG:
            name = str(error.filename)
            return complain(program, f"{name[:60]}... is too long for a path ({len(name)} letters)", EXIT_USER_ERROR)
        if isinstance(error, OSError) and error.errno in _LOST and error.filename:
            message = f"{os.fsdecode(error.filename)} cannot be written or read any more ({error.strerror})"
            return complain(program, message, EXIT_USER_ERROR)
        if not is_full_disk(error):
            raise
        _settle_stdout()
        message = f"no space left in {_written_folder(error, values)}; free some and run it again"
        return complain(program, message, EXIT_USER_ERROR)


def _special(
    special_page: Callable[[flags.FlagValues], str], values: flags.FlagValues, arguments: Sequence[str]
) -> str:
    """The page that other flags ask for; none where they are wrong, as help wins over mistakes."""
    try:
        parse(values, [one for one in arguments if one not in HELP])
    except UserError:
        return ""
    return special_page(values)


def quieten() -> None:
    """Libraries' warnings would break into the progress, and errors of theirs are raised too, to be said in a line."""
    logging.set_verbosity(logging.FATAL)


def help_page(values: flags.FlagValues, program: str, description: str | None, required: Sequence[str] = ()) -> str:
    """The page behind ``--help``: what the program does, then each flag with its values and default."""
    needed = " ".join(f"--{name}={_placeholder(values[name])}" for name in required)
    is_file = program.endswith(".py")
    if not is_file:  # as a command of the installed package
        description = re.sub(r"python experiments/(\w+)\.py", r"diffjax \1", description or "")
    usage = f"usage: {'python ' * is_file}{program}{' ' + needed if needed else ''} [flags]"
    parts = [usage, textwrap.dedent(description or "").strip(), "flags:"]
    optional = [name for name in values if name not in required]
    for name in [*required, *optional]:
        parts.append(_flag_help(values[name], name in required))
    parts.append(f"  --flagfile=FILE\n{_INDENT}Read flags from FILE, one per line.")
    parts.append(f"  --help\n{_INDENT}Show this page.")
    return "\n\n".join(part for part in parts if part)


class _PathParser(flags.ArgumentParser[str]):
    """A path, in which a leading ``~`` is the user's home: of ``--out=~/x`` no shell expands it."""

    def parse(self, argument: str) -> str:
        return os.path.expanduser(argument)

    def flag_type(self) -> str:
        return "string"


def define_path(values: flags.FlagValues, name: str, text: str) -> None:
    """Define a flag that names a file or a folder and has no default."""
    serializer = flags.ArgumentSerializer[str]()
    flags.DEFINE(_PathParser(), name, None, text, flag_values=values, serializer=serializer)


def parse_list(flag: str, text: str, allowed: Collection[str] | None = None) -> tuple[str, ...]:
    """The items of a comma-separated flag value, in order.

    Raises ``UserError`` for an empty value or item, one named twice, or one that is not in ``allowed``.
    """
    items = tuple(item.strip() for item in text.split(","))
    if not all(items):
        raise UserError(f"--{flag}={text} has an empty item; write --{flag}=first,second")
    _reject_repeats(flag, items)
    for item in items:
        if allowed is not None and item not in allowed:
            raise unknown_name(f"value in --{flag}:", item, allowed)
    return items


def parse_paths(flag: str, text: str) -> tuple[str, ...]:
    """The items of :func:`parse_list` as paths, each with its ``~`` expanded."""
    return tuple(map(os.path.expanduser, parse_list(flag, text)))


def parse_settings(assignments: Sequence[str] | None, flag: str = "set") -> dict[str, str]:
    """``["eta=0.1", "rho=1.5"]`` (a repeated ``--set``) as ``{"eta": "0.1", "rho": "1.5"}``.

    Raises ``UserError`` for a missing ``=``, an empty name or value, or a name given twice.
    """
    settings: dict[str, str] = {}
    for assignment in assignments or ():
        name, equals, value = (part.strip() for part in assignment.partition("="))
        if not (name and equals and value):
            raise UserError(f"--{flag} {assignment} is not an assignment; write --{flag} name=value")
        if name in settings:
            raise UserError(f"--{flag} gives {name} twice ({settings[name]} and {value}); give it once")
        settings[name] = value
    return settings


def parse_grid(
    assignments: Sequence[str] | None, flag: str = "grid", fixed: Collection[str] = ()
) -> dict[str, list[str]]:
    """``["eta=0.1,1", "rho=0"]`` (a repeated ``--grid``) as ``{"eta": ["0.1", "1"], "rho": ["0"]}``.

    Raises ``UserError`` as ``parse_settings`` does, for an empty or repeated value, and for a name that is
    ``fixed`` (by ``--set``) as well.
    """
    grid: dict[str, list[str]] = {}
    for name, text in parse_settings(assignments, flag).items():
        if name in fixed:
            raise UserError(f"{name} is given by both --set and --{flag}; choose one")
        values = [value.strip() for value in text.split(",")]
        if not all(values) or ";" in text:
            raise UserError(f"--{flag} {name}={text} is not a list; write --{flag} {name}=first,second")
        _reject_repeats(f"{flag} {name}", values)
        grid[name] = values
    return grid


def grid_settings(grid: Mapping[str, Sequence[Any]]) -> tuple[str, ...]:
    """Every combination of a grid as a setting string ``"eta=0.1;rho=1.5"``; no grid gives ``("",)``."""
    return tuple(
        ";".join(f"{name}={value}" for name, value in zip(grid, values, strict=True))
        for values in itertools.product(*grid.values())
    )


def parse(values: flags.FlagValues, arguments: Sequence[str], required: Sequence[str] = ()) -> None:
    """Reads a command line, the program first.

    Raises:
      UserError: for what is unknown, missing or no value.
    """
    try:
        stray = values(arguments)[1:]
    except flags.UnrecognizedFlagError as error:
        raise _unknown_flag(values, error.flagname) from None
    except flags.IllegalFlagValueError as error:
        raise UserError(_illegal_value(values, str(error))) from None
    except (flags.Error, ValueError) as error:
        reason = str(error).removeprefix("ERROR:: ")
        raise UserError(f"{reason} (--help lists all flags)") from None
    if stray:
        raise UserError(f"unexpected argument {stray[0]!r}; flags are written --name=value (see --help)")
    for name in required:
        if values[name].value in (None, ""):
            flag = values[name]
            raise UserError(f"missing --{name}={_placeholder(flag)}: {_split_help(flag)[1]}")


def _unknown_flag(values: flags.FlagValues, name: str) -> UserError:
    known = [*values, "help", *(f"no{flag}" for flag in values if values[flag].boolean)]
    close = difflib.get_close_matches(name.replace("-", "_"), known, n=2, cutoff=0.6)
    right = f"did you mean {' or '.join('--' + match for match in close)}?" if close else "see --help"
    return UserError(f"unknown flag --{name}; {right}")


def _illegal_value(values: flags.FlagValues, message: str) -> str:
    """absl's ``flag --steps=abc: reason`` with what would be right in place of the parser's reason."""
    match = re.match(r"flag --(?P<name>\w+)=(?P<value>.*?): ", message, re.DOTALL)
    if match is None or not (allowed := _allowed(values[match["name"]])):
        return message
    close = difflib.get_close_matches(match["value"], allowed.split("|"), n=1, cutoff=0.6)
    hint = f"; did you mean {close[0]}?" if close else ""
    return f"--{match['name']}={match['value']} is not {_readable(allowed)}{hint}"


def _allowed(flag: flags.Flag[Any]) -> str:
    """What a flag accepts: ``"an integer"``, ``"markdown|latex"``; empty when any text goes."""
    if isinstance(flag.parser, flags.EnumParser):
        return "|".join(flag.parser.enum_values)
    if flag.boolean:
        return "true|false"
    return flag.parser.syntactic_help


def _readable(allowed: str) -> str:
    return f"one of {allowed.replace('|', ', ')}" if "|" in allowed else allowed


def _split_help(flag: flags.Flag[Any]) -> tuple[str, str]:
    """A help text ``"DIR: folder"`` as what stands for the value and the text, without what absl adds."""
    text = re.sub(r";\s+repeat this option to specify a list of values$", "", flag.help)
    match = re.match(r"(\S+): +(.*)", text, re.DOTALL)
    return (match[1].strip("<>"), match[2]) if match else ("", text)


def _placeholder(flag: flags.Flag[Any]) -> str:
    by_type = {"int": "N", "float": "X", "multi int": "N", "multi float": "X"}
    if placeholder := _split_help(flag)[0]:
        return placeholder
    allowed = _allowed(flag)
    return allowed if "|" in allowed else by_type.get(flag.flag_type(), "TEXT")


def _flag_help(flag: flags.Flag[Any], required: bool) -> str:
    head = f"  --[no]{flag.name}" if flag.boolean else f"  --{flag.name}={_placeholder(flag)}"
    facts = []
    if "|" not in (allowed := _allowed(flag)) and allowed:
        facts.append(allowed)
    if isinstance(flag, flags.MultiFlag):
        facts.append("may be repeated")
    if required:
        facts.append("required")
    elif flag.boolean:
        facts.append(f"default: {'on' if flag.default else 'off'}")
    elif flag.default not in (None, "", []):
        facts.append(f"default: {flag.default}")
    text = _split_help(flag)[1] + (f" ({'; '.join(facts)})" if facts else "")
    body = textwrap.fill(
        text,
        width=100,
        initial_indent=_INDENT,
        subsequent_indent=_INDENT,
        break_long_words=False,
        break_on_hyphens=False,
    )
    return f"{head}\n{body}"


def _reject_repeats(flag: str, items: Sequence[str]) -> None:
    for index, item in enumerate(items):
        if item in items[:index]:
            raise UserError(f"--{flag} names {item} twice; name it once")


def _written_folder(error: Exception, values: flags.FlagValues) -> str:
    if isinstance(error, OSError) and error.filename:
        return str(Path(os.fsdecode(error.filename)).absolute().parent)
    out = values["out"].value if "out" in values else None
    return str(Path(out).absolute()) if out else "standard output"


def _settle_stdout() -> None:
    """Write what stdout still holds, or drop it, so that the interpreter's own flush at exit cannot fail."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def complain(program: str, message: str, status: int) -> int:
    """Prints a mistake as one line, and gives the status back."""
    print(f"{program}: {' '.join(message.splitlines())}", file=sys.stderr)
    return status
