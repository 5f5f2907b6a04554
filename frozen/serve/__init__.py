"""Serving a language model, in two rooms: `scheduling` runs sequences on the engine, `apis` speaks
HTTP's dialects. Arrows point from `apis` to `scheduling` only; `service` and `main` join the two.
"""
# SPDX-License-Identifier: MIT
