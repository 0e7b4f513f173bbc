"""The table of reads, and the way from a path to one of them.

`api.py` asks it for the question of a request, `openapi.py` for what there is. Nothing is read here.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable
from http import HTTPStatus

from daemon.config import Config
from daemon.domain.entity import Entity
from daemon.domain.rejection import Rejection
from daemon.read.endpoint import Endpoint, Question
from daemon.read.endpoints.domain_series import ReadDomainSeries
from daemon.read.endpoints.domains import ReadDomains
from daemon.read.endpoints.entities import ReadEntities
from daemon.read.endpoints.series import ReadManySeries, ReadSeries
from daemon.read.endpoints.status import ReadDead, ReadStatus
from daemon.read.endpoints.summary import ReadSummary
from daemon.read.endpoints.top import ReadTop
from daemon.read.endpoints.totals import ReadTotal, ReadTotals
from daemon.read.parameters import Parameters
from daemon.read.stores import Stores
from daemon.response import Response, invalid, message

ENDPOINTS: dict[str, type[Endpoint]] = {
    "totals/{domain}/{type}/{id}": ReadTotal,
    "totals/{domain}/{type}": ReadTotals,
    "top/{domain}/{type}": ReadTop,
    "series/{domain}/{type}/{id}": ReadSeries,
    "series/{domain}/{type}": ReadManySeries,
    "series/{domain}": ReadDomainSeries,
    "summary/{domain}": ReadSummary,
    "entities/{domain}/{type}": ReadEntities,
    "domains": ReadDomains,
    "status": ReadStatus,
    "dead": ReadDead,
}
"""Path behind PREFIX → what answers it. A path is a route, and the names of what is read."""
ROUTES = tuple(dict.fromkeys(path.partition("/")[0] for path in ENDPOINTS))


class Routes:
    """The reads of one configuration."""

    def __init__(self, config: Config, stores: Stores, now: Callable[[], dt.datetime]) -> None:
        self._types = {name: section.entity_types for name, section in config.domains.items()}
        self.breaker = stores.breaker
        self.endpoints = {path: endpoint(config, stores, now) for path, endpoint in ENDPOINTS.items()}
        self._by_shape = {(path.partition("/")[0], path.count("/")): each for path, each in self.endpoints.items()}

    def parse(self, path: str, query: str) -> Question | Response:
        """The question, or the answer to a request that asks none.

        `path`: the one behind PREFIX, percent-decoded. It begins with one of ROUTES.
        """
        route, *names = path.split("/", 3)
        domain, *others = names or [""]
        if names and domain not in self._types:
            return _not_found(f"This daemon's configuration has no such domain; it has: {', '.join(self._types)}.")
        if others and others[0] not in self._types[domain]:
            known = ", ".join(self._types[domain])
            return _not_found(f"There is no entity type of this name in the domain; there are: {known}.")
        endpoint = self._by_shape.get((route, len(names)))
        if endpoint is None:
            return _not_found("There is no such path. GET /openapi.json lists what there is.")
        parameters = Parameters(query)
        question = endpoint.ask(Entity(*names, *[""] * (3 - len(names))), parameters)
        parameters.reject_unknown()
        if len(names) == 3:
            parameters.check_entity_id(names[2])
        return invalid(Rejection(parameters.errors)) if parameters.errors else question


def _not_found(text: str) -> Response:
    return message(HTTPStatus.NOT_FOUND, text)
