"""Verbs whose modules are loaded when they are given: all of them take longer than most do."""

from collections.abc import Mapping, Sequence
from importlib import import_module

from samba_rvss.cli.common import Verbs


def register(verbs: Verbs, modules: Mapping[str, Sequence[str]], words: Sequence[str]) -> None:
    """Add the verb that is given; all verbs, in their order, if it is none of them.

    Args:
        verbs: where to add it.
        modules: the names of modules of `samba_rvss.cli`, each with the verbs that its function
            ``register`` adds. One whose only verb has its own name, and verbs of its own, is given
            what follows (``backup``).
        words: the verb and what follows it; nothing adds all.
    """
    given = [module for module, its in modules.items() if words and words[0] in its]
    for name in given or modules:
        module = import_module(f"samba_rvss.cli.{name}")
        if hasattr(module, "VERBS"):
            module.register(verbs, words[1:] if given else ())
        else:
            module.register(verbs)
