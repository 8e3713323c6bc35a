"""Sentinels and bounds that both sides of the wire must know."""

UNKNOWN = -1  # cached_length: the sequence is not cached here, send all its tokens with past_length 0
NO_SLOT = -2  # cached_length: every slot is in use, try again later

GATEWAY_BITS = 16  # the highest of a sequence_id: the same in all of a gateway's
JOINED_TOKENS = 8  # tokens of a row that are computed together with those that decode; longer rows are prefill chunks
MORE_POSITIONS = 512  # than rows, with candidates in one request: bounds the logits, positions × vocabulary × 4 bytes
MOST_RUN_AHEAD = 64  # tokens that a row may draw in one step
