"""`swift completion`: a script that completes commands, options, choices and registered names in a shell.

The script holds all of it and starts no process, so a tab takes no time. Read `tables` first.
"""

from __future__ import annotations

import sys
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from swift.arguments.fields import OptionInfo, options_of
from swift.arguments.help import first_line
from swift.arguments.verbs import CompletionArguments
from swift.cli import COMMANDS, Command, load
from swift.commands.names import known_names

GENERAL = {"help": "Show the options.", "debug": "Show the traceback of an error."}
CONFIG_HELP = "Read options from a YAML or JSON file."
FILES = ("model_id_or_path", "ckpt_dir", "dataset", "val_dataset", "custom_register_path", "output_dir", "result_dir")
FILES += ("resume_from_checkpoint", "logging_dir", "auth_file")

BASH = """\
# Completion of swift in bash. In ~/.bashrc: source <(swift completion bash)
_swift() {
    local word=${COMP_WORDS[COMP_CWORD]} command=${COMP_WORDS[1]} option= values= files= several= k
    command=${command//_/-}
    COMPREPLY=()
    if ((COMP_CWORD == 1)); then
        COMPREPLY=($(compgen -W "@COMMANDS@" -- "$word"))
        return
    fi
    for ((k = COMP_CWORD - 1; k > 1; k--)); do
        case ${COMP_WORDS[k]} in --*) option=${COMP_WORDS[k]#--} && option=${option//-/_} && break ;; esac
    done
    [[ $word == = ]] && word=
    [[ ${COMP_WORDS[k + 1]} == = ]] && ((k++))
    ((COMP_CWORD == 2)) && option="word $command"
@VALUES@
    if [[ $word == -* || -z $option ]] || { [[ -z $several && $option != word* ]] && ((k < COMP_CWORD - 1)); }; then
        values= files=
@OPTIONS@
    fi
    COMPREPLY=($(compgen -W "$values" -- "$word"))
    if [[ $files ]]; then
        local IFS=$'\\n'
        compopt -o filenames 2>/dev/null
        COMPREPLY+=($(compgen -f -- "$word"))
    fi
}
complete -F _swift swift
"""

ZSH = """\
#compdef swift
# Completion of swift in zsh. In ~/.zshrc, after compinit: source <(swift completion zsh)
_swift() {
    local command=${words[2]//_/-} word=$words[CURRENT] option= values= files= several= k
    if ((CURRENT == 2)); then
        compadd -- @COMMANDS@
        return
    fi
    for ((k = CURRENT - 1; k > 2; k--)); do
        case $words[k] in --*) option=${${words[k]#--}//-/_} && break ;; esac
    done
    if [[ $word == --*=* ]]; then
        option=${${${word%%=*}#--}//-/_} k=$((CURRENT - 1)) word=
        compset -P '*='
    fi
    ((CURRENT == 3)) && [[ -z $option ]] && option="word $command"
@VALUES@
    if [[ $word == -* || -z $option ]] || { [[ -z $several && $option != word* ]] && ((k < CURRENT - 1)) }; then
        values= files=
@OPTIONS@
    fi
    compadd -- ${=values}
    [[ $files ]] && _files
}
if [[ $funcstack[1] == _swift ]]; then _swift "$@"; else compdef _swift swift; fi
"""


@dataclass(frozen=True)
class Values:
    """What may follow an option: words, whether files too, and whether several."""

    words: tuple[str, ...]
    files: bool
    several: bool


def completion_main(args: CompletionArguments) -> None:
    """Print the script of the shell that is asked for."""
    sys.stdout.write({"bash": bash, "zsh": zsh, "fish": fish}[str(args.shell)]())


def tables() -> dict[str, dict[str, OptionInfo]]:
    """The options of every command."""
    return {name: options_of(load(command.arguments)) for name, command in COMMANDS.items()}


def values_of(info: OptionInfo, names: Mapping[str, list[str]]) -> Values:
    """What may follow this option."""
    if info.kind is bool:
        return Values(("true", "false"), False, info.is_list)
    words = tuple(str(choice) for choice in info.choices or names.get(info.name, ()))
    return Values(words, info.name in FILES, info.is_list)


def bash() -> str:
    """The script for bash."""
    return _filled(BASH)


def zsh() -> str:
    """The script for zsh."""
    return _filled(ZSH)


def _filled(script: str) -> str:
    every = tables()
    options = [f"        {name}) values={_quoted(_flags(infos))} ;;" for name, infos in every.items()]
    return (
        script.replace("@COMMANDS@", " ".join(COMMANDS))
        .replace("@OPTIONS@", _case("        ", "command", options))
        .replace("@VALUES@", _case("    ", "option", _value_cases(every)))
    )


def _case(indent: str, variable: str, lines: Iterable[str]) -> str:
    return "\n".join([f"{indent}case ${variable} in", *lines, f"{indent}esac"])


def _value_cases(every: Mapping[str, Mapping[str, OptionInfo]]) -> list[str]:
    """A line for all options that may be followed by the same; and the words that follow a command."""
    names = known_names()
    same: dict[Values, list[str]] = defaultdict(list)
    for name, info in {name: info for infos in every.values() for name, info in infos.items()}.items():
        same[values_of(info, names)].append(name)
    lines = []
    for values, options in same.items():
        settings = [f"values={_quoted(values.words)}"] if values.words else []
        settings += ["files=1"] if values.files else []
        settings += ["several=1"] if values.several else []
        lines.append(f"        {'|'.join(options)}) {' '.join(settings) or ':'} ;;")
    lines += [f"        'word {name}') values={_quoted(_word_choices(command))} ;;" for name, command in _worded()]
    files = "|".join(f"'word {name}'" for name, command in COMMANDS.items() if command.word is None)
    return [*lines, "        config) files=1 several=1 ;;", f"        {files}) files=1 ;;"]


def _worded() -> list[tuple[str, Command]]:
    return [(name, command) for name, command in COMMANDS.items() if command.word]


def _word_choices(command: Command) -> tuple[str, ...]:
    info = options_of(load(command.arguments))[str(command.word)]
    return tuple(map(str, info.choices or ()))


def _flags(options: Iterable[str]) -> list[str]:
    return [f"--{name}" for name in (*options, "config", *GENERAL)]


def _quoted(words: Iterable[str]) -> str:
    return f'"{" ".join(words)}"'


def fish() -> str:
    """The script for fish."""
    names = known_names()
    lines = [
        "# Completion of swift in fish. Once: swift completion fish > ~/.config/fish/completions/swift.fish",
        "complete -c swift -f",
    ]
    for name, command in COMMANDS.items():
        about = command.about or first_line(load(command.arguments))
        lines.append(f"complete -c swift -n __fish_use_subcommand -a {name} -d {_fish(about)}")
        seen = f"complete -c swift -n '__fish_seen_subcommand_from {name}'"
        if command.word:
            lines.append(f"{seen} -a {_fish(' '.join(_word_choices(command)))}")
        for option, info in options_of(load(command.arguments)).items():
            values = values_of(info, names)
            words = f" -a {_fish(' '.join(values.words))}" if values.words else ""
            lines.append(f"{seen} -l {option} {'-rF' if values.files else '-x'}{words} -d {_fish(info.help)}")
        lines.append(f"{seen} -l config -rF -d {_fish(CONFIG_HELP)}")
        lines += [f"{seen} -l {option} -d {_fish(text)}" for option, text in GENERAL.items()]
    return "\n".join(lines) + "\n"


def _fish(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace("'", "\\'")
    return f"'{escaped}'"
