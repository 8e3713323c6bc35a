"""Text and tokens: tokenizer, chat templates, grammars. Untrusted input is processed in resource-limited processes."""
