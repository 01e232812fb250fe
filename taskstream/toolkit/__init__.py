"""What authors of handlers may use besides the engine itself."""
