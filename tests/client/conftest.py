"""Loads what warns on being imported, once, so that warnings can stay errors in the tests."""

import warnings

with warnings.catch_warnings():
    # typer asks click for names that click 8.5 has deprecated.
    warnings.simplefilter("ignore", DeprecationWarning)
    import typer  # noqa: F401
