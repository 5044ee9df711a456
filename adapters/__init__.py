"""What an adapter is, where it is kept, and which stage it has reached."""
