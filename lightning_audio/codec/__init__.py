"""The codec: audio to codes and back, and how it is trained as a GAN."""
