"""The health check of the gateway's container: exits with 0 if /readyz returns 200, that is, if Triton runs real steps."""

import http.client
import os
import sys


def main() -> None:
    """http.client ignores proxy settings in the environment."""
    connection = http.client.HTTPConnection("127.0.0.1", int(os.environ.get("PORT") or 5002), timeout=8)
    try:
        connection.request("GET", "/readyz")
        answer = connection.getresponse()
        status, body = answer.status, answer.read(500).decode(errors="replace")
    except (OSError, http.client.HTTPException) as error:
        sys.exit(f"the gateway does not answer: {error}")
    if status != 200:
        sys.exit(f"the gateway is not ready: {body}")


if __name__ == "__main__":
    main()
