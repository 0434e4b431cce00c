"""What training lowers: losses of logits and labels, and the sum of them that a config asks for."""
