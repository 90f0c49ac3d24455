"""What some licences want shown beside every copy of the model."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

_RIGHTS = "Copyright © Meta Platforms, Inc. All Rights Reserved."
_NOTICES = {
    "gemma": "Gemma is provided under and subject to the Gemma Terms of Use found at ai.google.dev/gemma/terms",
    "llama2": f"Llama 2 is licensed under the LLAMA 2 Community License, {_RIGHTS}",
    "llama3": "**Built with Meta Llama 3.** Meta Llama 3 is licensed under the Meta Llama 3 Community License,"
    f" {_RIGHTS}",
    "llama3.1": f"**Built with Llama.** Llama 3.1 is licensed under the Llama 3.1 Community License, {_RIGHTS}",
    "llama3.2": f"**Built with Llama.** Llama 3.2 is licensed under the Llama 3.2 Community License, {_RIGHTS}",
    "llama3.3": f"**Built with Llama.** Llama 3.3 is licensed under the Llama 3.3 Community License, {_RIGHTS}",
    "llama4": f"**Built with Llama.** Llama 4 is licensed under the Llama 4 Community License, {_RIGHTS}",
}


def licence(metadata: Mapping[str, Any]) -> str | None:
    """The name of the licence that a card's front matter gives, its `license_name` where that is `other`."""
    name = metadata.get("license")
    return metadata.get("license_name", name) if name == "other" else name


def notice(metadata: Mapping[str, Any]) -> str | None:
    """The lines as Markdown; None where the licence is not known to ask for any."""
    name = re.sub(r"[^a-z0-9.]", "", (licence(metadata) or "").lower())
    if metadata.get("license") == "other":  # llama-3.1-community, gemma-terms-of-use
        name = max((known for known in _NOTICES if name.startswith(known)), key=len, default="")
    return _NOTICES.get(name)
