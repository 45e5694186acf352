"""What is learned about chains of any kind."""
