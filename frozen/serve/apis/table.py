"""The table of the server's routes: what is added here is served, and is what openapi.json says."""
# SPDX-License-Identifier: MIT


class Entry:
    """A route. method; paths: the same handler answers all; about: keyword arguments of Table."""

    def __init__(self, method, paths, about):
        self.method = method
        self.paths = paths
        self.about = about


class Table:
    """Adds routes to an App.

        @table.post("/completion", takes="Completion", gives="Object", events=True, says="...")
        async def completion(request): ...

    takes, gives: names of schemas in openapi.py, of the request's body and the answer; gives: also
    a media type, for an answer that is no JSON. events, lines: a stream is server-sent events, or
    lines of JSON. query: {name: schema} of parameters in the URL. says: a few words. codes: further
    status codes of errors that belong to the route.
    """

    def __init__(self, app):
        self.app = app
        self.entries = []

    def get(self, *paths, **about):
        """Decorator for GET (and HEAD)."""
        return self._add("GET", paths, about)

    def post(self, *paths, **about):
        """Decorator for POST."""
        return self._add("POST", paths, about)

    def delete(self, *paths, **about):
        """Decorator for DELETE."""
        return self._add("DELETE", paths, about)

    def _add(self, method, paths, about):
        self.entries.append(Entry(method, paths, about))

        def decorate(handler):
            for path in paths:
                self.app.route(path, (method,))(handler)
            return handler

        return decorate
