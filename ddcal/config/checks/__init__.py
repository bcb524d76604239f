"""What makes the parts of a study fit together, beyond the types of its fields."""
