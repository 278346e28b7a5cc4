"""Model files: the only place that knows formats, our own, AudioCraft's and Hugging Face's."""
