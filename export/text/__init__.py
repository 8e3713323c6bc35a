"""Tokenizers and chat templates: converts each project's files to one tokenizer.json and one template."""
