"""What constraints of a request do to the choice of its next token."""
# SPDX-License-Identifier: MIT

from _engine import Assertion, BadNumbers, Limit, Lost


class Stuck(RuntimeError):
    """The constraints of a request allow no next token."""

    def __init__(self, exc):
        words = "none is left" if isinstance(exc, Assertion) else str(exc)
        super().__init__("The constraints of the request allow no next token: " + words)


def chosen(sequence, choose, *arguments):
    """Return the token that choose() returns. Raise Stuck for what is the constraints' fault."""
    # Exceeded limits, numbers that only a damaged model computes, and a lost GPU are not.
    try:
        return choose(*arguments)
    except (Limit, BadNumbers, Lost):
        raise
    except RuntimeError as exc:
        if sequence.constrained:
            raise Stuck(exc)
        raise


# Parameters of the sampler that can leave no token to sample.
_CONSTRAINTS = ("grammar", "json_schema", "logit_bias", "ignore_eos", "min_tokens")


def constrains(sampling, chat):
    """Return whether a request's parameters can leave no token to choose."""
    return chat is not None or any([name in sampling for name in _CONSTRAINTS])


def penalizes(sampling):
    """Return whether the sampler takes the prompt's tokens into account."""
    return (
        sampling.get("repeat_penalty", 1) != 1
        or sampling.get("presence_penalty", 0)
        or sampling.get("frequency_penalty", 0)
        or sampling.get("dry_multiplier", 0)
    )
