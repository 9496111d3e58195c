"""Data: from published files, drawings and anyone's pictures to uint8 levels in three disjoint splits."""
