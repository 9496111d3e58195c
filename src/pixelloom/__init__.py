"""Image generators trained from scratch on anyone's pictures, measured honestly, sampled fast."""
