"""What a user's code imports, and the tasks that meshq brings."""
