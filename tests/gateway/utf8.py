"""What of some bytes a reader gets to see, said in another way than the gateway says it."""


def complete(data: bytes) -> bytes:
    """Without the half character at their end, if there is one."""
    for size in (3, 2, 1):
        try:
            data[-size:].decode()
        except UnicodeDecodeError as error:
            if error.start == 0 and error.reason == "unexpected end of data":
                return data[:-size]
    return data


def shown(data: bytes) -> str:
    """U+FFFD where bytes are no character; half a character at their end never."""
    return complete(data).decode(errors="replace")
