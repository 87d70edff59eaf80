"""The commands, one module for each family; registered in pyproject under `roseforest.commands`.

A module here imports click, `node.commands.options` and `node.commands.output` at the top and everything
else inside its functions, because `roseforest --help` loads all of them.
"""
