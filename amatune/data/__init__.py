"""Images: where they come from, how they are decoded, and how a problem splits them."""
