"""What a training is made of: settings that fit, checkpoints, and coming back."""
