"""What a protocol does with clips: measures of them, and canaries that show what the measures say of known things."""
