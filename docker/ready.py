"""The health check of the gateway's container: status 0 while /readyz says 200, that is, while Triton answers a real step."""

import http.client
import os
import sys


def main() -> None:
    """http.client asks no proxy, whatever the environment says."""
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
