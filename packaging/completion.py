#!/usr/bin/python3
"""Print the completion of the command samba-rvss for a shell: bash, zsh or fish.

Place: run when a package is built; nothing of it runs where the command is used. What there is to
complete comes from the command's own parser.

No library does it: argcomplete runs the command itself at each key, as root, and obeys its
environment; shtab knows no fish, and the one of Debian 12 offers bash no command but the first.
"""

import argparse
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from samba_rvss import cli

FILES, DIRECTORIES = ("FILE",), ("DIR", "PATH")
"""How those arguments are called that are names of files and of directories."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Option:
    """An option: its names, what it does, whether it takes a value, and what that is called."""

    names: tuple[str, ...]
    help: str
    takes: bool
    value: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Command:
    """A command, or the program itself, which has no words.

    Attributes:
        words: those that lead to it.
        options: its own.
        commands: the words of those below it, each with what it does.
        value: what its arguments are called that are names of files; empty if none is one.
    """

    words: tuple[str, ...]
    options: tuple[Option, ...]
    commands: dict[str, str]
    value: str


def commands(parser: argparse.ArgumentParser, words: tuple[str, ...] = ()) -> Iterator[Command]:
    """Yield the command of a parser, and all below it."""
    below, options, value = dict[str, str](), list[Option](), ""
    inner: dict[str, argparse.ArgumentParser] = {}
    for action in parser._actions:
        kind = str(action.metavar or "")
        if isinstance(action, argparse._SubParsersAction):
            inner |= action.choices
            below |= {choice.dest: choice.help or "" for choice in action._choices_actions}
        elif action.option_strings:
            options.append(
                Option(
                    names=tuple(action.option_strings),
                    help=action.help or "",
                    takes=action.nargs != 0,
                    value=kind,
                )
            )
        elif kind in FILES + DIRECTORIES:
            value = kind
    yield Command(words=words, options=tuple(options), commands=below, value=value)
    for word, deeper in inner.items():
        yield from commands(deeper, (*words, word))


def quoted(text: str, *special: str) -> str:
    """Return a text in single quotes, for all three shells; what is special gets a backslash."""
    for each in special:
        text = text.replace(each, f"\\{each}")
    return "'" + text.replace("'", "'\\''") + "'"


_BASH = """\
# bash completion of samba-rvss                                             -*- shell-script -*-

_samba_rvss() {
    local word value='' path='' given=${COMP_WORDS[COMP_CWORD]} last=${COMP_WORDS[COMP_CWORD - 1]}
    local words='' options='' files='' directories='' values='' arguments=''
    COMPREPLY=()
    [[ $given != = ]] || given=''
    [[ $last != = ]] || last=${COMP_WORDS[COMP_CWORD - 2]}
    for word in "${COMP_WORDS[@]:1:COMP_CWORD-1}"; do
        case $word in
        --) # what follows is another program's
            compopt -o bashdefault -o default
            return
            ;;
        =) continue ;;
        -s | --configfile) value=$word ;;
        -*) value='' ;;
        *) if [[ $value ]]; then value=''; else path+=" $word"; fi ;;
        esac
    done
    case "$path " in
%s    esac
    if [[ $given == -* ]]; then
        words=$options
    elif [[ " $files " == *" $last "* ]]; then
        arguments=-f words=''
    elif [[ " $directories " == *" $last "* ]]; then
        arguments=-d words=''
    elif [[ " $values " == *" $last "* ]]; then
        return
    fi
    if [[ $arguments && $given != -* ]]; then
        compopt -o filenames
        mapfile -t COMPREPLY < <(compgen "$arguments" -- "$given")
    else
        mapfile -t COMPREPLY < <(compgen -W "$words" -- "$given")
    fi
}

complete -F _samba_rvss samba-rvss
"""


def for_bash(found: list[Command]) -> str:
    """Return the completion for bash."""
    lines = []
    for command in sorted(found, key=lambda command: -len(command.words)):
        named = {
            "words": command.commands,
            "options": [name for option in command.options for name in option.names],
            "files": _taking(command, FILES),
            "directories": _taking(command, DIRECTORIES),
            "values": [n for option in command.options if option.takes for n in option.names],
        }
        path = "".join(f" {word}" for word in command.words)
        kind = "-f" if command.value in FILES else "-d" if command.value else ""
        pattern = f"'{path} '*" if path else "' '" if command.commands else "*"
        sets = [f"{name}={quoted(' '.join(words))}" for name, words in named.items() if words]
        sets += [f"arguments={kind}"] if kind else []
        lines += [f"    {pattern})\n", *(f"        {line}\n" for line in sets), "        ;;\n"]
    return _BASH % "".join(lines)


def _taking(command: Command, kinds: tuple[str, ...]) -> list[str]:
    """Return the names of the options whose value is of some kinds."""
    return [name for option in command.options if option.value in kinds for name in option.names]


def for_zsh(found: list[Command]) -> str:
    """Return the completion for zsh."""
    functions = "".join(_zsh_function(command) for command in found)
    return f'#compdef samba-rvss\n\n{functions}_samba_rvss "$@"\n'


def _zsh_function(command: Command) -> str:
    lines = []
    for option in command.options:
        text = f"[{_zsh(option.help)}]"
        value = f":{option.value or 'value'}:{_zsh_files(option.value)}" if option.takes else ""
        others = f"({' '.join(option.names)})"
        lines += [quoted(f"{others}{name}{text}{value}") for name in option.names]
    if command.commands:
        lines += ["': :->command'", "'*::: :->rest'"]
    else:
        lines.append(quoted(f"*:argument:{_zsh_files(command.value)}"))
    name = _zsh_name(command.words)
    arguments = "".join(f" \\\n        {line}" for line in lines)
    text = f"    local curcontext=$curcontext state line\n    _arguments -C{arguments}\n"
    if command.commands:
        told = "".join(
            f" \\\n            {quoted(f'{word}:{_zsh(what)}')}"
            for word, what in command.commands.items()
        )
        cases = "".join(
            f"        {word}) {_zsh_name((*command.words, word))} ;;\n" for word in command.commands
        )
        text += (
            f"    case $state in\n    command)\n        local -a commands=({told}\n        )\n"
            "        _describe command commands\n        ;;\n    rest)\n"
            '        words=("$line[1]" "${words[@]}")\n        ((CURRENT += 1))\n'
            f"        case $line[1] in\n{cases}        esac\n        ;;\n    esac\n"
        )
    return f"{name}() {{\n{text}}}\n\n"


def _zsh_name(words: tuple[str, ...]) -> str:
    return "_".join(("_samba_rvss", *words)).replace("-", "_")


def _zsh_files(value: str) -> str:
    return "_files" if value in FILES else "_files -/" if value in DIRECTORIES else " "


def _zsh(text: str) -> str:
    for special in ("\\", ":", "[", "]"):
        text = text.replace(special, f"\\{special}")
    return text


# True if the words of a command line besides options, without what follows -s, begin with the
# function's arguments; with -e only if they are those and no others.
_FISH = """\
# fish completion of samba-rvss

function __samba_rvss_at
    set -l exactly no
    if test "$argv[1]" = -e
        set exactly yes
        set -e argv[1]
    end
    set -l given (commandline -opc)
    set -l found
    set -l value no
    for word in $given[2..-1]
        if test $value = yes
            set value no
        else if contains -- $word -s --configfile
            set value yes
        else if not string match -q -- '-*' $word
            set -a found $word
        end
    end
    test $exactly = no; or test (count $found) -eq (count $argv); or return 1
    for number in (seq (count $argv))
        test "$found[$number]" = $argv[$number]; or return 1
    end
end

complete -c samba-rvss -f
"""


def for_fish(found: list[Command]) -> str:
    """Return the completion for fish."""
    lines = [line for command in found for line in _fish_lines(command)]
    return _FISH + "".join(f"complete -c samba-rvss -n {line}\n" for line in lines)


def _fish_lines(command: Command) -> Iterator[str]:
    there = quoted(" ".join(("__samba_rvss_at", *command.words)))
    exactly = quoted(" ".join(("__samba_rvss_at -e", *command.words)))
    for word, what in command.commands.items():
        yield f"{exactly} -a {word} -d {quoted(what)}"
    for option in command.options:
        names = " ".join(
            f"-l {name[2:]}" if name.startswith("--") else f"-s {name[1:]}" for name in option.names
        )
        # The program's own options come before any command, as argparse wants them.
        when = there if command.words else exactly
        value = _fish_files(option.value) or " -x" if option.takes else ""
        yield f"{when} {names}{value} -d {quoted(option.help)}"
    if command.value:
        yield f"{there}{_fish_files(command.value)}"


def _fish_files(value: str) -> str:
    if value in FILES:
        return " -r -F"
    return " -x -a '(__fish_complete_directories)'" if value in DIRECTORIES else ""


SHELLS = {"bash": for_bash, "zsh": for_zsh, "fish": for_fish}


def main() -> None:
    """Print what is asked for."""
    if len(sys.argv) != 2 or sys.argv[1] not in SHELLS:
        sys.exit(f"usage: {sys.argv[0]} {'|'.join(SHELLS)}")
    sys.stdout.write(SHELLS[sys.argv[1]](list(commands(cli.parser()))))


if __name__ == "__main__":
    main()
