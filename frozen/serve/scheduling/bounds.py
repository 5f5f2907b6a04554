"""Limits of requests."""
# SPDX-License-Identifier: MIT


class Bounds:
    """Limits of requests; 0 means no limit."""

    def __init__(self, **values):
        self.slots = 4  # sequences that run at a time
        self.queue = 64  # requests that wait for a slot
        self.per_client = 0  # requests of one client, waiting or running
        self.queue_s = 0  # seconds in the queue
        self.request_s = 0  # seconds from arrival to the last token
        self.step_ms = 500  # target for the longest step
        self.sample_ms = 1000  # processor time to follow a request's grammar; docs/limits.md
        self.job_ms = 1000  # processor time for a request's template, schema, grammar and texts
        self.stored = 1 << 20  # bytes of responses that are kept
        self.streams = 4 << 20  # bytes of streams that can be resumed
        self.saved = 64 << 20  # bytes of saved prefixes
        self.speculate = True
        self.kept_cells = None  # cells of the KV cache that may keep prefixes; None: half
        for name in values:
            if not hasattr(self, name):
                raise ValueError("unknown limit '%s'" % name)
            setattr(self, name, values[name])
