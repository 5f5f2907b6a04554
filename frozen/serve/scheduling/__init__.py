"""Runs many requests on one engine: queue, batches, prefix cache, drafts, counters.

Knows tokens, texts and RequestError; nothing of HTTP's routes or of any API's JSON.
"""
# SPDX-License-Identifier: MIT
