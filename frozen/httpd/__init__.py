"""HTTP/1.1 server: a sans-I/O request parser, a router, and a connection loop over asyncio
streams.

Knows nothing of models. Import the public names from here.
"""
# SPDX-License-Identifier: MIT

from .parser import HttpError, Limits, Parser, Request
from .router import App, Response, Stream
from .server import Server
