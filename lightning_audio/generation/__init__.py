"""From words, melodies and prompts to sound: language models that write codes, and what makes audio of them."""
