"""Tokenizers and chat templates: from whatever files a project has to one tokenizer.json and one template."""
