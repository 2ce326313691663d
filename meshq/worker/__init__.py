"""Running tasks: the agent that fetches them, and a child for each slot."""
