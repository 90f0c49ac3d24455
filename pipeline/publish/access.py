"""Who may write to a repo on the Hub, and who may read it: seen to before anything goes there."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from huggingface_hub import constants
from huggingface_hub.errors import HfHubHTTPError, RepositoryNotFoundError
from huggingface_hub.utils import build_hf_headers, get_session, hf_raise_for_status

from pipeline.check.release import UNGATED
from pipeline.errors import BadInputError, HubError
from pipeline.hub import api, sign_in
from pipeline.hub.sentences import reason
from pipeline.publish import remote

if TYPE_CHECKING:
    from pipeline.publish import Planned

# Written by the Hub itself.
ATTRIBUTES = ".gitattributes"


def _check_account(repo: str) -> None:
    """Refuse a token that may only read, and a namespace that its account has no part in.

    Asked only before a repo is created: who a token is may be asked of the Hub but a few times an hour.
    """
    if sign_in.trusted():
        raise HubError(
            f"{repo} is not there yet, and a trusted publisher may not create it. Create it on the Hub and add this"
            " workflow as its trusted publisher, or run once with HF_TOKEN."
        )
    who: dict[str, Any] = api().whoami()
    namespace, name = repo.partition("/")[0], who.get("name")
    if (who.get("auth") or {}).get("accessToken", {}).get("role") == "read":
        raise HubError(
            f"The token of {name} may only read. Publishing to {repo} needs one of role `write`, or fine-grained with"
            f" write access to {namespace}: make it on the Hub's page of access tokens."
        )
    if namespace not in {name, *(org.get("name") for org in who.get("orgs") or ())}:
        raise HubError(
            f"The account {name} is in no organization {namespace}, so it cannot publish to {repo}. Correct"
            " `organization` in matrix.yml, or use a token of one of its members."
        )


def have_repo(plan: Planned) -> None:
    """Create a repo that is not there. Raises `HubError` where that cannot be, `BadInputError` for a public one."""
    hub = api()
    try:
        info = hub.model_info(plan.repo)
    except RepositoryNotFoundError:
        _check_account(plan.repo)
        try:
            hub.create_repo(plan.repo, private=plan.private)
        except HfHubHTTPError as error:
            if error.response.status_code != 409:  # there by now, or its name is taken
                raise
        try:
            info = hub.model_info(plan.repo)
        except RepositoryNotFoundError as error:
            raise HubError(
                f"{plan.repo} cannot be created as a model: its name is taken, by a repo of another type or one that"
                " this token may not see. Rename that one, or give the model another `organization`, then run again."
            ) from error
    if plan.private and not info.private:
        raise BadInputError(
            f"{plan.repo} is public, and matrix.yml wants it private. Make it private on its settings page, or correct"
            " `private`."
        )


def is_open(repo: str) -> bool:
    """Whether everybody may download what is in a repo."""
    info = api().model_info(repo)
    return not info.private and not info.gated


def gate(plan: Planned) -> None:
    """Gate a repo that everybody may read as the source is, if it holds nothing that anybody could use already.

    Raises `BadInputError` where it does, and `HubError` where this token may not.
    """
    repo, gated = plan.repo, plan.gated
    if gated is None or gated == "no" or not is_open(repo):
        return
    if remote.look(repo).files.keys() - {ATTRIBUTES}:
        raise BadInputError(
            f"{repo} is open to everyone, and the model that it is made of is gated ({gated}). {UNGATED}"
        )
    try:
        api().update_repo_settings(repo, gated=gated)
    except HfHubHTTPError as error:
        if error.response.status_code not in {401, 403}:
            raise
        raise HubError(
            f"{repo} must be gated ({gated}) as the model is that it is made of, and this token may not do that"
            f" ({reason(error)}). {UNGATED}"
        ) from error


def announce(plan: Planned) -> None:
    """Ask the Hub how it would take these files: without room for them it says so, and nothing is sent."""
    files = [{"path": name, "size": size, "sample": ""} for name, size in plan.files.items()]
    answer = get_session().post(
        f"{constants.ENDPOINT}/api/models/{plan.repo}/preupload/{remote.MAIN}",
        json={"files": files},
        headers=build_hf_headers(),
    )
    hf_raise_for_status(answer)
