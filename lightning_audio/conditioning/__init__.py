"""What steers a model: attributes of a clip to vectors, their dropout in training, guidance by them."""
