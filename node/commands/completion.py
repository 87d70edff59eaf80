"""`completion`: the script that teaches a shell our commands."""

from __future__ import annotations

import click


@click.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def completion(shell: str, as_json: bool) -> None:
    """Print a shell's completion script.

    \b
    bash, zsh: source <(roseforest completion bash)
    fish:      roseforest completion fish | source
    """
    from click.shell_completion import get_completion_class

    from node.cli import PROGRAM, cli
    from node.commands.output import print_json

    kind = get_completion_class(shell)
    assert kind is not None
    script = kind(cli, {}, PROGRAM, f"_{PROGRAM.upper()}_COMPLETE").source()
    if as_json:
        print_json({"shell": shell, "script": script})
    else:
        click.echo(script)
