"""AudioCraft's classes, for scripts written for it: thin dresses over the models of this project."""
