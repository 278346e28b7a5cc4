"""Multi-band diffusion: codes to audio by removing noise, one model for each band of frequencies."""
