"""`completion`: scripts for bash, zsh and fish, made from the same tables as the parsers."""

from __future__ import annotations

from onggi.errors import InvalidArgument
from onggi.faces.cli import catalogue
from onggi.faces.cli.verb import Verb

TYPE_CHECKING = False
if TYPE_CHECKING:
    from onggi.faces.cli.options import Option, Parsed
    from onggi.faces.cli.verb import Context

#: what to complete → the command that lists it.
_LISTS = {
    "container": "onggi ps -a --format '{{.Names}}'",
    "image": "onggi images --format '{{.Repository}}:{{.Tag}}'",
    "volume": "onggi volume ls -q",
    "network": "onggi network ls --format '{{.Name}}'",
}


def _verbs() -> dict[str, Verb]:
    return {name: catalogue.load(entry) for name, entry in catalogue.entries().items()}


def _words() -> list[str]:
    singles = [name for name in catalogue.entries() if " " not in name]
    return sorted({*singles, *catalogue.FAMILIES, "help"})


def _family(name: str) -> list[str]:
    return [v.split()[1] for v in catalogue.entries() if v.startswith(f"{name} ")]


def _names(verb: Verb) -> str:
    return " ".join([*(name for option in verb.options for name in option.names), "--help"])


def _valued(verb: Verb) -> list[Option]:
    return [option for option in verb.options if option.value]


def _source(kind: str) -> str:
    """A bash word list for what an option or argument takes; empty: files."""
    if kind in _LISTS:
        return f"$({_LISTS[kind]} 2>/dev/null)"
    return "" if kind in ("", "file") else kind


def bash() -> str:
    """For bash: `source <(onggi completion bash)`."""
    lines = ["# bash completion for onggi", "_onggi_options() {", '  case "$1" in']
    verbs = _verbs()
    lines += [f'    "{name}") echo "{_names(verb)}" ;;' for name, verb in verbs.items()]
    lines += ["  esac", "}", "_onggi_value() {", '  case "$1:$2" in']
    for name, verb in verbs.items():
        for option in _valued(verb):
            pattern = "|".join(f'"{name}:{flag}"' for flag in option.names)
            lines.append(f'    {pattern}) kind="{option.complete or "none"}" ;;')
    lines += ['    *) kind="" ;;', "  esac", "}", "_onggi_argument() {", '  case "$1" in']
    lines += [f'    "{n}") kind="{verb.complete or "none"}" ;;' for n, verb in verbs.items()]
    lines += ["  esac", "}", "_onggi_list() {", '  case "$1" in']
    lines += [f"    {kind}) {command} 2>/dev/null ;;" for kind, command in _LISTS.items()]
    lines += ["    none) ;;", '    *) echo "$1" ;;', "  esac", "}", "_onggi_family() {"]
    lines += ['  case "$1" in']
    lines += [f'    {name}) echo "{" ".join(_family(name))}" ;;' for name in catalogue.FAMILIES]
    lines += ["  esac", "}", _BASH_BODY.replace("@WORDS@", " ".join(_words()))]
    return "\n".join(lines)


_BASH_BODY = """\
_onggi() {
  local cur="${COMP_WORDS[COMP_CWORD]}" prev="${COMP_WORDS[COMP_CWORD-1]}" kind="" verb="" i=1
  while [ "$i" -lt "$COMP_CWORD" ]; do
    case "${COMP_WORDS[i]}" in
      --root) i=$((i + 1)) ;;
      -*) ;;
      *) verb="${COMP_WORDS[i]}"; break ;;
    esac
    i=$((i + 1))
  done
  if [ -z "$verb" ]; then
    COMPREPLY=($(compgen -W "@WORDS@ --root --help --version" -- "$cur")); return
  fi
  if [ -n "$(_onggi_family "$verb")" ]; then
    if [ "$COMP_CWORD" -eq "$((i + 1))" ]; then
      COMPREPLY=($(compgen -W "$(_onggi_family "$verb")" -- "$cur")); return
    fi
    verb="$verb ${COMP_WORDS[i+1]}"
  fi
  _onggi_value "$verb" "$prev"
  if [ -z "$kind" ]; then
    case "$cur" in
      -*) COMPREPLY=($(compgen -W "$(_onggi_options "$verb")" -- "$cur")); return ;;
    esac
    _onggi_argument "$verb"
  fi
  if [ "$kind" = file ]; then
    COMPREPLY=($(compgen -f -- "$cur"))
  else
    COMPREPLY=($(compgen -W "$(_onggi_list "$kind")" -- "$cur"))
  fi
  if declare -F __ltrim_colon_completions >/dev/null; then __ltrim_colon_completions "$cur"; fi
}
complete -F _onggi onggi
"""


def zsh() -> str:
    """For zsh, by way of its reading of bash completions."""
    head = "#compdef onggi\nautoload -U +X bashcompinit && bashcompinit\n"
    return head + bash()


def fish() -> str:
    """For fish: `onggi completion fish | source`."""
    lines = ["# fish completion for onggi", "complete -c onggi -f"]
    nothing = "__fish_use_subcommand"
    for name, entry in catalogue.entries().items():
        if " " not in name:
            lines.append(f"complete -c onggi -n {nothing} -a {name} -d {_quoted(entry[2])}")
    for name, about in catalogue.FAMILIES.items():
        lines.append(f"complete -c onggi -n {nothing} -a {name} -d {_quoted(about)}")
        known = " ".join(_family(name))
        seen = f"'__fish_seen_subcommand_from {name}; and not __fish_seen_subcommand_from {known}'"
        lines.append(f"complete -c onggi -n {seen} -a {_quoted(known)}")
    for name, verb in _verbs().items():
        seen = "'" + "; and ".join(f"__fish_seen_subcommand_from {w}" for w in name.split()) + "'"
        if verb.complete:
            source = _LISTS.get(verb.complete)
            take = f"-a {_quoted(f'({source})')}" if source else "-F"
            lines.append(f"complete -c onggi -n {seen} {take}")
        lines += [_fish_option(option, seen) for option in verb.options]
    return "\n".join(lines) + "\n"


def _fish_option(option: Option, seen: str) -> str:
    flags = " ".join(f"-s {n[1:]}" if len(n) == 2 else f"-l {n[2:]}" for n in option.names)
    source = _source(option.complete)
    take = ""
    if option.value:
        take = " -rF" if option.complete == "file" else " -x"
        if option.complete in _LISTS:
            take += f" -a {_quoted(f'({_LISTS[option.complete]})')}"
        elif source:
            take += f" -a {_quoted(source)}"
    return f"complete -c onggi -n {seen} {flags}{take} -d {_quoted(option.help)}"


def _quoted(text: str) -> str:
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"


_SHELLS = {"bash": bash, "zsh": zsh, "fish": fish}


def _completion(context: Context, parsed: Parsed) -> int:
    shell = parsed.arguments[0]
    if shell not in _SHELLS:
        raise InvalidArgument(f"no completion for {shell}", hint="bash, zsh or fish")
    context.out.text(_SHELLS[shell]())
    return 0


VERBS = {
    "completion": Verb(
        _completion,
        arguments="bash|zsh|fish",
        least=1,
        most=1,
        complete="bash zsh fish",
        examples=(
            ("source <(onggi completion bash)", "now; put it in ~/.bashrc to keep it"),
            ("onggi completion fish > ~/.config/fish/completions/onggi.fish", "for fish"),
        ),
    )
}
