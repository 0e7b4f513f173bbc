"""The commands as one tree, and what they all share: a help of few words that fits 80 columns, and `--verbose`.

`daemon.cli` runs the tree. It is built by typer, which names the type of each parameter as Python does (`<bool>`).
"""

from __future__ import annotations

from typing import Any

import typer
from typer.main import get_command

CHOICES_CHARS_MAX = 24
"""Of choices that stand beside their option. Longer ones are in its help."""


def command_tree(app: typer.Typer) -> Any:
    """The root command, which is callable. Its `commands` are those below it."""
    tree: Any = get_command(app)
    [verbose] = [each for each in tree.params if each.name == "verbose"]
    _finish(tree, typer.Context(tree, **tree.context_settings), verbose)
    return tree


def _finish(command: Any, context: typer.Context, verbose: Any) -> None:
    """Gives the command, and those below it, --verbose, and its parameters plain names of their types."""
    if verbose not in command.params:
        command.params.append(verbose)
    for parameter in command.get_params(context):  # its own, and --help
        shown = _type_shown(parameter)
        if parameter.param_type_name == "argument":  # typer shows the type of one beside its metavar
            vars(parameter)["display_type_rich"] = lambda ctx, shown=shown: shown  # noqa: ARG005 - typer's
        else:
            parameter.metavar = shown
    for name, each in getattr(command, "commands", {}).items():
        _finish(each, typer.Context(each, parent=context, info_name=name), verbose)


def _type_shown(parameter: Any) -> str:
    """What stands for the value."""
    is_argument, type_ = parameter.param_type_name == "argument", parameter.type_descriptor
    choices = "|".join(str(getattr(each, "value", each)) for each in type_.choices or ())
    if choices and len(choices) <= CHOICES_CHARS_MAX:
        return choices
    if is_argument or parameter.is_flag:
        return ""
    if parameter.metavar is not None:
        return str(parameter.metavar)
    if type_.is_datetime:
        return "DAY"
    return "N" if type_.is_ranged else max(parameter.opts, key=len).lstrip("-").upper()
