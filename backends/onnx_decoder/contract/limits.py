"""Sentinels and bounds that both sides of the wire must know."""

UNKNOWN = -1  # cached_length: the sequence is not cached here, send all its tokens with past_length 0
NO_SLOT = -2  # cached_length: every slot is in use, try again later

GATEWAY_BITS = 16  # highest bits of a sequence_id: the same for all sequences of a gateway
JOINED_TOKENS = 8  # most tokens of a row that shares a pass with decode rows; longer rows are prefill chunks
# Most positions with candidates in a request, beyond one per row. Bounds the logits: positions × vocabulary × 4 bytes.
MORE_POSITIONS = 512
MOST_RUN_AHEAD = 64  # tokens that a row may draw in one step
