"""AudioCraft's packaged files."""
