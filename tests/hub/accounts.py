"""Who asks, and what they may do. Tokens are kept in memory alone and never written down."""

from __future__ import annotations

import secrets
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from .answers import RefusedError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from .repos import Repo

GRANT = "urn:ietf:params:oauth:grant-type:token-exchange"
ID_TOKEN = "urn:ietf:params:oauth:token-type:id_token"
# Every token of every Hub of this process, for a test run to search its output for.
EVER_GIVEN: set[str] = set()


@dataclass(frozen=True)
class Account:
    """One token of a user; several tokens may have the same name and different rights."""

    name: str
    role: str = "read"  # or write
    orgs: Mapping[str, str] = field(default_factory=dict)  # organization -> read or write
    access: frozenset[str] = frozenset()  # private and gated repos of others that it may read
    repo: str | None = None  # a trusted publisher's token: datasets/owner/name, all that it may write
    expires: float | None = None  # Unix time

    def member(self, namespace: str) -> bool:
        return namespace == self.name or namespace in self.orgs

    def writes_in(self, namespace: str) -> bool:
        mine = namespace == self.name or self.orgs.get(namespace) == "write"
        return self.role == "write" and self.repo is None and mine

    def reads(self, repo: Repo) -> bool:
        """Whether it may read what not everybody may."""
        if self.repo is not None:
            return self.repo == repo.full_name
        return self.member(repo.namespace) or repo.repo_id in self.access

    def writes(self, repo: Repo) -> bool:
        if self.repo is not None:
            return self.repo == repo.full_name
        return self.writes_in(repo.namespace)


@dataclass(frozen=True)
class Publisher:
    """A workflow that the Hub trusts: `resource` is a repo, or a user whose gated models it may read."""

    resource: str
    subject_token: str
    seconds: int


class Accounts:
    def __init__(self) -> None:
        self._tokens: dict[str, Account] = {}
        self._publishers: list[Publisher] = []

    def add(self, token: str, name: str, role: str, orgs: Mapping[str, str], access: Iterable[str]) -> None:
        if role not in ("read", "write") or not set(orgs.values()) <= {"read", "write"}:
            raise ValueError("A role is read or write")
        self._give(token, Account(name, role, dict(orgs), frozenset(access)))

    def _give(self, token: str, account: Account) -> None:
        self._tokens[token] = account
        EVER_GIVEN.add(token)

    def drop(self, token: str) -> None:
        del self._tokens[token]

    def trust(self, publisher: Publisher) -> None:
        self._publishers.append(publisher)

    def of(self, authorization: str | None) -> Account | None:
        """The account that an Authorization header names, None without one."""
        if not authorization:
            return None
        scheme, _, token = authorization.partition(" ")
        account = self._tokens.get(token) if scheme.lower() == "bearer" else None
        if account is None or (account.expires is not None and account.expires < time.time()):
            raise RefusedError(401, "Invalid credentials in Authorization header")
        return account

    def exchange(self, body: dict[str, Any]) -> dict[str, Any]:
        """Turn a workflow's id token into a token of the Hub: RFC 8693."""
        if body.get("grant_type") != GRANT or body.get("subject_token_type") != ID_TOKEN:
            raise RefusedError(400, "unsupported_grant_type")
        resource = str(body.get("resource", ""))
        asked = (resource, body.get("subject_token"))
        found = [p for p in self._publishers if (p.resource, p.subject_token) == asked]
        if not found:
            raise RefusedError(400, f"invalid_grant: no trusted publisher of {resource} matches this id token")
        seconds, expires = found[0].seconds, time.time() + found[0].seconds
        if "/" in resource:
            account = Account(resource.split("/")[-2], "write", repo=resource, expires=expires)
        else:
            access = frozenset().union(*(a.access for a in self._tokens.values() if a.name == resource))
            account = Account(resource, "read", access=access, expires=expires)
        token = f"hf_jwt_{secrets.token_hex(16)}"
        self._give(token, account)
        scope = "gated-repos" if account.repo is None else "write-repos"
        return {"access_token": token, "token_type": "bearer", "expires_in": seconds, "scope": scope}

    @staticmethod
    def whoami(account: Account) -> dict[str, Any]:
        orgs = [{"type": "org", "name": name, "roleInOrg": role} for name, role in account.orgs.items()]
        return {
            "type": "user",
            "id": account.name,
            "name": account.name,
            "fullname": account.name,
            "isPro": False,
            "orgs": orgs,
            "auth": {"type": "access_token", "accessToken": {"displayName": "loopback", "role": account.role}},
        }
