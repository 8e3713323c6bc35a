"""What a client may send: one schema a route, made of fields that mean and allow the same everywhere."""

from gateway.schemas.base import LARGEST_MAX_TOKENS, LARGEST_TOP_K, MOST_CHOICES, NOT_SUPPORTED, Body, fields_of
from gateway.schemas.routes import ChatBody, CompletionBody, GenerateBody, ResponsesBody
from gateway.schemas.sampling import ChangesNothing, SamplingBody
from gateway.schemas.tokens import DetokenizeBody, TokenizeBody

__all__ = [
    "LARGEST_MAX_TOKENS",
    "LARGEST_TOP_K",
    "MOST_CHOICES",
    "NOT_SUPPORTED",
    "Body",
    "ChangesNothing",
    "ChatBody",
    "CompletionBody",
    "DetokenizeBody",
    "GenerateBody",
    "ResponsesBody",
    "SamplingBody",
    "TokenizeBody",
    "fields_of",
]
