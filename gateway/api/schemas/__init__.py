"""Request schemas: one per route, built from fields that mean and allow the same everywhere."""

from gateway.api.schemas.anthropic import CountTokensBody, MessagesBody
from gateway.api.schemas.base import LARGEST_MAX_TOKENS, LARGEST_TOP_K, MOST_CHOICES, NOT_SUPPORTED, Body, fields_of
from gateway.api.schemas.routes import ChatBody, CompletionBody, GenerateBody, ResponsesBody
from gateway.api.schemas.sampling import ChangesNothing, SamplingBody
from gateway.api.schemas.tokens import DetokenizeBody, TokenizeBody

__all__ = [
    "LARGEST_MAX_TOKENS",
    "LARGEST_TOP_K",
    "MOST_CHOICES",
    "NOT_SUPPORTED",
    "Body",
    "ChangesNothing",
    "ChatBody",
    "CompletionBody",
    "CountTokensBody",
    "DetokenizeBody",
    "GenerateBody",
    "MessagesBody",
    "ResponsesBody",
    "SamplingBody",
    "TokenizeBody",
    "fields_of",
]
