"""What leaves the workspace: submission packages and the checks they must pass."""
