"""The flow: Ray lives here. Rooms below never import one another; they meet in a table."""
