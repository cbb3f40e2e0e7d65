"""What the Hub's client can meet: whether it passes by itself, and how to tell the user."""

from __future__ import annotations

from selector.errors import ModelLoadError
from strategies.base import first_line

# Longest Retry-After, in seconds, that is obeyed; beyond it the user is told, not kept waiting.
_LONGEST_ASKED_WAIT = 30.0


def raised() -> tuple[type[Exception], ...]:
    """Types of all that the client raises; its HTTP library's errors pass through it."""
    import httpx2  # noqa: PLC0415 - the Hub client's own HTTP library, loaded with it

    return (httpx2.HTTPError, httpx2.InvalidURL, OSError, ValueError)


def met(error: BaseException) -> BaseException:
    """The error itself, or what was behind it where the client reports only a missing file."""
    from huggingface_hub.errors import LocalEntryNotFoundError  # noqa: PLC0415 - 0.3 s of imports

    hidden = error.__cause__ if isinstance(error, LocalEntryNotFoundError) else None
    return hidden or error


def is_transient(error: BaseException) -> bool:
    """Whether the same request is worth another try: 429, 5xx, a broken or short answer."""
    # The client checks lengths and raises a bare OSError where a download came out short.
    short = isinstance(error, OSError) and str(error).startswith("Consistency check failed")
    return short or (is_unreachable(error) and asked_wait(error) <= _LONGEST_ASKED_WAIT)


def is_unreachable(error: BaseException) -> bool:
    """Whether it is the Hub, or the way to it, that is at fault and not the request."""
    import httpx2  # noqa: PLC0415 - the Hub client's own HTTP library, loaded with it

    status = _status(error)
    if status is not None:
        return status == 429 or status >= 500
    return isinstance(
        error, (httpx2.TimeoutException, httpx2.NetworkError, httpx2.RemoteProtocolError)
    )


def asked_wait(error: BaseException | None) -> float:
    """Seconds that the Hub asks to wait with the next request; 0 where it does not."""
    headers = getattr(getattr(error, "response", None), "headers", {})
    asked = str(headers.get("Retry-After", ""))
    return float(asked) if asked.isdigit() else 0.0


def explained(error: BaseException, repo: str, revision: str | None) -> ModelLoadError:
    """What went wrong at the Hub and the next step, on one line."""
    from huggingface_hub import constants, errors  # noqa: PLC0415 - 0.3 s of imports

    hub, status = constants.ENDPOINT, _status(error)
    page = f"{hub}/{repo}"
    if isinstance(error, errors.GatedRepoError):
        text = f"{repo} is gated: accept its licence at {page}, then pass token= or set HF_TOKEN"
    elif isinstance(error, errors.RevisionNotFoundError):
        text = f"{repo} has no revision {revision!r}; its branches and tags are at {page}"
    elif isinstance(error, errors.RepositoryNotFoundError) or status == 404:
        text = _no_such_model(repo, hub, status)
    elif status in (401, 403):
        text = f"{repo} is private, or the token gives no access ({status}); see {page}, HF_TOKEN"
    elif status == 429:
        wait = f", {asked_wait(error):.0f} s from now" if asked_wait(error) else ""
        text = f"{hub} refuses further requests (429); try again later{wait}, or set HF_TOKEN"
    elif status is not None:
        text = f"{hub} answers {status} for {repo}; try again later, or pass a local folder"
    elif isinstance(error, (OSError, ValueError)):
        text = f"{repo} cannot be fetched to {constants.HF_HUB_CACHE}: {first_line(error)}"
    else:
        text = (
            f"{hub} cannot be reached for {repo} ({first_line(error, 120)}); check the network "
            "and HF_ENDPOINT, or pass a local folder"
        )
    return ModelLoadError(text)


def _no_such_model(repo: str, hub: str, status: int | None) -> str:
    private = ", or it is private there: then pass token= or set HF_TOKEN" if status == 401 else ""
    bare = "" if "/" in repo else "; a model type goes with random_weights=True (--random-weights)"
    return f"no such model: {repo!r} is neither a folder here nor a model at {hub}{private}{bare}"


def _status(error: BaseException | None) -> int | None:
    status = getattr(getattr(error, "response", None), "status_code", None)
    return status if isinstance(status, int) else None
