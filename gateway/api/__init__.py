"""What clients may send and what they get: routes, schemas, serializers."""
