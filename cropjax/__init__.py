"""cropjax."""
