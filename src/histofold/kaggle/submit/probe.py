"""Two questions that Kaggle's command line cannot ask, put through its own package in a process of its own.

`python -m histofold.kaggle.submit.probe kernel OWNER/SLUG` gives the newest version of a kernel, and
`... submissions SLUG` the newest submissions with the site's words on those that failed. The answer is one JSON line.
"""

from __future__ import annotations

import json
import sys
from typing import Any


def newest_version(api: Any, kernel: str) -> dict[str, Any]:
    """The number of a kernel's newest version."""
    from kagglesdk.kernels.types.kernels_api_service import ApiGetKernelRequest

    request = ApiGetKernelRequest()
    request.user_name, request.kernel_slug = kernel.split("/")
    with api.build_kaggle_client() as client:
        answer = client.kernels.kernels_api_client.get_kernel(request)
    return {"version": answer.metadata.current_version_number}


def newest_submissions(api: Any, competition: str) -> list[dict[str, Any]]:
    """The newest page of submissions."""
    return [
        {
            "ref": entry.ref,
            "description": entry.description,
            "status": entry.status.name,
            "error": entry.error_description,
            "public_score": entry.public_score,
            "private_score": entry.private_score,
        }
        for entry in api.competition_submissions(competition) or []
    ]


def probe(arguments: list[str]) -> int:
    """Ask one question; 0 with the answer on stdout, 1 with the client's message on stderr."""
    from requests.exceptions import RequestException

    from kaggle import api  # it reads the credentials

    questions = {"kernel": newest_version, "submissions": newest_submissions}
    try:
        answer = questions[arguments[0]](api, arguments[1])
    except (RequestException, ValueError) as error:
        sys.stderr.write(f"{error}\n")
        return 1
    sys.stdout.write(json.dumps(answer) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(probe(sys.argv[1:]))
