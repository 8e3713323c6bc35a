"""Who may ask: one key, in either of two headers."""

import hmac

from fastapi import Request

from gateway.errors import Unauthorized


def require_api_key(request: Request) -> None:
    """Lets a request pass whose ``X-API-Key: KEY`` or ``Authorization: Bearer KEY`` is right; raises Unauthorized otherwise."""
    scheme, _, bearer_token = request.headers.get("authorization", "").partition(" ")
    given = [request.headers.get("x-api-key", ""), bearer_token.strip() if scheme.lower() == "bearer" else ""]
    expected = request.app.state.settings.my_api_key.encode()
    # Headers arrive decoded as Latin-1: encoded again they are the bytes that the client sent. Both are always compared.
    matches = [hmac.compare_digest(key.encode("latin-1"), expected) for key in given]
    if not any(matches):
        raise Unauthorized
