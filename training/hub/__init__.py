"""What a checkpoint's card tells."""
