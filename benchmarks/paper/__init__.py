"""The paper's tables on the built-in models; see __main__.py for the commands."""
