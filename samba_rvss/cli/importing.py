"""What to do on a Hyper-V host once a virtual machine's files are restored. Pure.

As Microsoft documents it (Export and import virtual machines; Compare-VM, Import-VM and Remove-VM
of the module Hyper-V for PowerShell).
"""

import re

# What PowerShell takes for a single quote (about_Quoting_Rules); doubled, it stands for itself.
_QUOTES = re.compile("(['\u2018\u2019\u201a\u201b])")


def unc(server: str, share: str, path: str) -> str:
    """Return the name by which Windows knows what is in a share.

    Args:
        server: its name.
        share: the share's.
        path: from the share's directory.
    """
    inside = path.strip("/").replace("/", "\\")
    return f"\\\\{server}\\{share}" + (f"\\{inside}" if inside else "")


def steps(configuration: str, directory: str, original: str, *, in_place: bool) -> list[str]:
    """Return lines that tell what to do: commands of PowerShell, and comments.

    Args:
        configuration: of the machine, restored: its file's UNC path.
        directory: the restored machine's, and
        original: where that was.
        in_place: whether the machine was restored where it was.
    """
    file = _quoted(configuration)
    switches = (
        "# Its virtual switches must be there under the same names; a host that is older than"
    )
    told = [switches, "# the machine's configuration version cannot import it."]
    if in_place:
        return [
            *told,
            "# If it is still registered, Remove-VM first: that deletes its configuration, which a",
            "# second restore with '--overwrite never' brings back.",
            f"(Compare-VM -Path {file} -Register).Incompatibilities",
            f"Import-VM -Path {file} -Register",
        ]
    disks = "Virtual Hard Disks"
    return [
        *told,
        "# As the same machine, which must not be registered any more, copied to its own place:",
        *_copy(file, original, f"{original}\\{disks}", ""),
        "# Or as another machine, with an id of its own, beside the first:",
        *_copy(file, f"{directory}\\copy", f"{directory}\\copy\\{disks}", " -GenerateNewId"),
    ]


def _copy(file: str, machine: str, disks: str, more: str) -> list[str]:
    where = f"-VirtualMachinePath {_quoted(machine)} -VhdDestinationPath {_quoted(disks)}"
    words = f"-Path {file} -Copy{more} {where}"
    return [f"(Compare-VM {words}).Incompatibilities", f"Import-VM {words}"]


def _quoted(text: str) -> str:
    doubled = _QUOTES.sub(r"\1\1", text)
    return f"'{doubled}'"
