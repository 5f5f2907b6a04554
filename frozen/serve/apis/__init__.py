"""The HTTP APIs: each module turns one shape of requests into sequences, and back into answers."""
# SPDX-License-Identifier: MIT
