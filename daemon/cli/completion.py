"""`tallyd completion`: the script that makes a shell complete commands, options and files."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

import typer

if TYPE_CHECKING:
    from collections.abc import Mapping

Shell = Literal["bash", "zsh", "fish"]
NAME = "tallyd"
ENV = "_TALLYD_COMPLETE"
"""The script sets it, and then `tallyd` answers what could come next."""


def completion(shell: Annotated[Shell, typer.Argument(metavar="SHELL", help="Yours.")]) -> None:
    """Print a script with which Tab completes commands, options and choices. It changes no file.

    Example: `source <(tallyd completion bash)`, also in ~/.bashrc

    Example: `source <(tallyd completion zsh)` in ~/.zshrc, after `compinit`

    Example: `tallyd completion fish > ~/.config/fish/completions/tallyd.fish`
    """
    from typer.completion import get_completion_script  # type: ignore[attr-defined] # typer leaves out `__all__`

    print(get_completion_script(prog_name=NAME, complete_var=ENV, shell=shell))


def answer_shells(environ: Mapping[str, str]) -> None:
    """Makes typer answer the scripts. It knows how only in programs that have its own `--install-completion`."""
    if environ.get(ENV):
        from typer.completion import completion_init  # type: ignore[attr-defined] # as above

        completion_init()
