"""The HTTP API: routes, request schemas and response serializers."""
