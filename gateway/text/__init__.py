"""Text and tokens: tokenizer, chat templates, grammars; what strangers send is worked on in bounded processes."""
