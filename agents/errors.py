"""Errors of the application itself; each says what to do about it."""

from __future__ import annotations


class AgentsError(Exception):
    """Base of all errors raised by `agents`."""


class SettingsError(AgentsError):
    """A setting is wrong; the message names key, value, source and fix (exit code 2)."""


class UsageError(AgentsError):
    """A command cannot do what was asked with these arguments (exit code 2)."""


class NothingRuns(AgentsError):
    """No broker or store was found at the addresses at hand (exit code 3)."""


class CheckFailed(AgentsError):
    """A check found a difference or a problem; the output says which (exit code 4)."""
