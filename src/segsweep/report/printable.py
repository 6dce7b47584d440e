"""Text from records that neither a terminal obeys nor a page is upset by."""


def printable(content: str) -> str:
    r"""Without what is no letter to see: control characters, writing directions, halves of characters.

    >>> printable("a\x00b\u202ec")
    'a b c'
    """
    return content if content.isprintable() else "".join(c if c.isprintable() else " " for c in content)
