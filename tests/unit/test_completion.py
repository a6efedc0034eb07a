"""Completion, asked of the shells themselves: every command and every option, from the parser."""

import argparse
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from samba_rvss import cli

PROGRAM = Path(__file__).parents[2] / "packaging" / "completion.py"
SECONDS = 120

_BASH = """
compopt() { :; }
source "$1"
while IFS= read -r line; do
    IFS=' ' read -ra COMP_WORDS <<<"$line"
    [[ $line != *' ' ]] || COMP_WORDS+=('')
    COMP_CWORD=$((${#COMP_WORDS[@]} - 1))
    _samba_rvss
    printf '%s\\n' "= $line" "${COMPREPLY[@]}"
done
own='word|value|path|given|last|words|options|files|directories|values|arguments'
compgen -v | grep -xE "$own" && echo "what is the user's own was changed"
"""

_FISH = """
source $argv[1]
while read -l line
    echo "= $line"
    complete -C "$line" | string replace -r '\\t.*' ''
end
"""

# A shell at a terminal of its own, which tells when it has listed what it would complete.
_ZSH = """
zmodload zsh/zpty
zpty shell "stty cols 200 rows 200; TERM=dumb zsh -f -i"
until_seen() { zpty -r shell heard "*$1*"; }
zpty -w shell "fpath=($1 \\$fpath); autoload -Uz compinit; compinit -u -D"
zpty -w shell 'told() { zle list-choices; zle -R; print -n "TO""LD"; }; zle -N told'
zpty -w shell 'bindkey "^I" told; LISTMAX=0; unsetopt beep; unset zle_bracketed_paste'
zpty -w shell 'PS1=REA""DY'
until_seen READY
while IFS= read -r line; do
    zpty -n -w shell "$line"$'\\t'
    until_seen TOLD
    print -r -- "= $line"
    print -r -- "$heard"
    zpty -w shell $'\\x15'
    until_seen READY
done
"""


def _commands(
    parser: argparse.ArgumentParser, words: tuple[str, ...] = ()
) -> Iterator[tuple[str, frozenset[str], frozenset[str]]]:
    """Yield the line of each command up to a blank, its options, and the words after it."""
    options = {name for action in parser._actions for name in action.option_strings}
    inner = [a.choices for a in parser._actions if isinstance(a, argparse._SubParsersAction)]
    below = {word for choices in inner for word in choices}
    yield " ".join(("samba-rvss", *words, "")), frozenset(options), frozenset(below)
    for choices in inner:
        for word, each in choices.items():
            yield from _commands(each, (*words, word))


KNOWN = list(_commands(cli.parser()))


def _made(shell: str, tmp_path: Path) -> Path:
    (tmp_path / "of").mkdir()
    file = tmp_path / "of" / "_samba-rvss"
    done = subprocess.run([PROGRAM, shell], capture_output=True, check=True, timeout=SECONDS)
    file.write_bytes(done.stdout)
    return file


def _asked(argv: list[str], lines: list[str]) -> dict[str, list[str]]:
    """Return what a shell's program offers for each line; each begins with ``= LINE``."""
    done = subprocess.run(
        argv,
        input="".join(f"{line}\n" for line in lines),
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )
    assert done.returncode in (0, 1), done.stderr
    found: dict[str, list[str]] = {}
    for line in done.stdout.splitlines():
        if line.startswith("= "):
            last = found.setdefault(line[2:], [])
        elif line:
            last.append(line.strip())
    return found


def _options(lines: list[str]) -> set[str]:
    """Return the options in lines of a list, each line with one, or with all its names."""
    names = [re.split(r"\s--\s", line)[0] for line in lines]
    return {word for each in names for word in re.findall(r"(?<!\S)-{1,2}[a-z][a-z0-9-]*", each)}


@pytest.mark.require("shells")
@pytest.mark.parametrize("shell", ["bash", "fish"])
def test_every_command_and_option(shell: str, tmp_path: Path) -> None:
    program = tmp_path / "program"
    program.write_text(_BASH if shell == "bash" else _FISH)
    no_start = ["--norc"] if shell == "bash" else ["--no-config"]
    argv = [shell, *no_start, str(program), str(_made(shell, tmp_path))]
    (tmp_path / "of" / "directory").mkdir()
    place = f"{tmp_path}/of/"
    lines = [line for line, _, _ in KNOWN]
    dashes = [f"{line}{dash}" for line in lines for dash in ("-", "--")]
    more = ["samba-rvss -s x backup ", "samba-rvss hold --tag list --", "samba-rvss -s x -"]
    files = [f"samba-rvss metrics -o {place}", f"samba-rvss adopt --on {place}"]
    found = _asked(argv, [*lines, *dashes, *more, *files])
    assert "what is the user's own was changed" not in str(found)
    for line, options, below in KNOWN:
        assert _options([*found[f"{line}-"], *found[f"{line}--"]]) == options, line
        if below:
            assert set(found[line]) == below, line
    backup = next(below for line, _, below in KNOWN if line == "samba-rvss backup ")
    assert set(found[more[0]]) == backup
    assert "--until" in found[more[1]]
    assert "--version" in [*found[more[2]], *found["samba-rvss --"]]
    names = [{Path(name).name for name in found[line]} for line in files]
    assert names == [{"directory", "_samba-rvss"}, {"directory"}]


@pytest.mark.require("shells")
def test_every_command_and_option_in_zsh(tmp_path: Path) -> None:
    _made("zsh", tmp_path)
    (tmp_path / "program").write_text(_ZSH)
    lines = [line for line, _, _ in KNOWN]
    argv = ["zsh", "-f", str(tmp_path / "program"), str(tmp_path / "of")]
    found = _asked(argv, [*lines, *(f"{line}-" for line in lines)])
    for line, options, below in KNOWN:
        assert _options(found[f"{line}-"]) == options, (line, found[f"{line}-"])
        if below:
            words = {re.split(r"\s+--\s", told)[0] for told in found[line]}
            assert below <= words, (line, found[line])
