"""Folders in the form of Hugging Face `transformers`; `folder` is the door to them."""
