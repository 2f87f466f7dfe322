"""What was measured decides how a cycle goes on."""
