"""What a request may set of the sampler, once: ranges and defaults, by llama-server's names.

params.py checks requests by this table and native_api.py shows its defaults. The engine checks the
same ranges again (native/engine/sampler.cpp); tests/unit/engine/test_sampler_ranges.py holds the
two together.
"""
# SPDX-License-Identifier: MIT

INT32 = 0x7FFFFFFF


class Range:
    """Numbers from `least` to `most`, whole ones if these are. default: llama-server's, None where
    it shows none. clamps: a value outside becomes the nearest end; otherwise it is an error.
    """

    def __init__(self, least, most, default, clamps=True):
        self.least = least
        self.most = most
        self.default = default
        self.clamps = clamps
        self.whole = isinstance(least, int)


RANGES = {
    "temperature": Range(0.0, 1e9, 0.8),
    "dynatemp_range": Range(0.0, 1e3, 0.0),
    "dynatemp_exponent": Range(0.0, 1e3, 1.0),
    "top_k": Range(0, INT32, 40),
    "top_p": Range(0.0, 1.0, 0.95),
    "min_p": Range(0.0, 1.0, 0.05),
    "typical_p": Range(0.0, 1.0, 1.0),
    "top_n_sigma": Range(-1.0, 1e6, -1.0),
    "xtc_probability": Range(0.0, 1.0, 0.0),
    "xtc_threshold": Range(0.0, 1.0, 0.1),
    "min_keep": Range(0, INT32, 0, clamps=False),
    "min_tokens": Range(0, INT32, None, clamps=False),  # vLLM's
    # The sampler allocates this many tokens.
    "repeat_last_n": Range(0, 1 << 20, 64, clamps=False),
    # llama.cpp divides by it, and refuses 0 and less (common/sampling.cpp).
    "repeat_penalty": Range(1e-6, 1e6, 1.0, clamps=False),
    "presence_penalty": Range(-1e6, 1e6, 0.0),
    "frequency_penalty": Range(-1e6, 1e6, 0.0),
    "dry_multiplier": Range(0.0, 1e3, 0.0),
    "dry_base": Range(1.0, 1e3, 1.75),
    "dry_allowed_length": Range(0, 1 << 20, 2, clamps=False),
    "dry_penalty_last_n": Range(0, 1 << 20, 64, clamps=False),
    "mirostat": Range(0, 2, 0),
    "mirostat_tau": Range(0.0, 1e3, 5.0),
    "mirostat_eta": Range(0.0, 1e3, 0.1),
    "adaptive_target": Range(-1.0, 1.0, -1.0),
    "adaptive_decay": Range(0.0, 0.99, 0.9),
}
