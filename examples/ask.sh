#!/usr/bin/env bash
# Asks each line of standard input and prints the answers, one a line: examples/ask.sh < questions.txt
# TIDEGATE_URL and MY_API_KEY name another server. Needs curl and jq.
set -euo pipefail
: "${TIDEGATE_URL:=http://localhost:5002}" "${MY_API_KEY:=a_default_key_for_testing}"

while IFS= read -r question; do
  body=$(jq -n --arg question "$question" '{
    model: "latest_checkpoint.pt", max_tokens: 100, temperature: 0,
    messages: [{role: "user", content: $question}]
  }')
  # --retry waits for as long as Retry-After says where the server is full.
  answer=$(curl -sS --retry 5 --fail-with-body "$TIDEGATE_URL/v1/chat/completions" \
    -H "Authorization: Bearer $MY_API_KEY" -H "Content-Type: application/json" -d "$body") ||
    { jq -r '.error.message' <<<"$answer" >&2; exit 1; }
  jq -r '.choices[0].message.content | gsub("\n"; " ")' <<<"$answer"
done
