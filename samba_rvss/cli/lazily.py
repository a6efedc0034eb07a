"""Verbs whose modules are loaded when they are given: all would take longer than most verbs do."""

from collections.abc import Mapping, Sequence
from importlib import import_module

from samba_rvss.cli.common import Verbs


def register(verbs: Verbs, modules: Mapping[str, Sequence[str]], words: Sequence[str]) -> None:
    """Add the verb that is given; all verbs, in their order, if it is none of them.

    Args:
        verbs: where to add it.
        modules: the names of modules of `samba_rvss.cli`, each with the verbs that its function
            ``register`` adds. One that has such a table itself, ``VERBS``, is given the words that
            follow its verb.
        words: the verb and what follows it; nothing adds all.
    """
    given = [module for module, its in modules.items() if words and words[0] in its]
    for name in given or modules:
        module = import_module(f"samba_rvss.cli.{name}")
        if hasattr(module, "VERBS"):
            module.register(verbs, words[1:] if given else ())
        else:
            module.register(verbs)
