"""How many examples hypothesis draws: all with ``make test PROFILE=many``, else three tenths."""

from __future__ import annotations

from hypothesis import settings


def examples(number: int) -> settings:
    """For a test that deserves so many examples, with what else the profile of conftest.py sets."""
    share = settings.default.max_examples / settings.get_profile("many").max_examples
    return settings(max_examples=round(share * number))
