"""What may stand in a line of text, whatever bytes a name in it held.

Place: below all that prints, logs or sends text. Contract: nobody can end our line by a name and
begin one of his own, move the cursor of a terminal, or make a text that cannot be encoded.
"""


def printable(text: str, encoding: str = "utf-8") -> str:
    r"""Return a text with everything escaped that is no printable character.

    Those are control characters, ends of lines among them, characters that change how others are
    shown, bytes that are not UTF-8 (which Python holds as surrogates), and what an encoding lacks;
    they become what they are in Python's source: ``\n``, ``\x1b``, ``\u202e``, ``\udcff``.

    Args:
        text: any.
        encoding: what is to be written with.
    """
    shown = text
    if not shown.isprintable():
        shown = "".join(char if char.isprintable() else ascii(char)[1:-1] for char in shown)
    return shown.encode(encoding, "backslashreplace").decode(encoding)
