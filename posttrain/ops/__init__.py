"""Pure tensor functions that several algorithms share."""
