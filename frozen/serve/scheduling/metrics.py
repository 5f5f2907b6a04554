"""What the server counts, in Prometheus' text format 0.0.4. Counters and gauges have
llama-server's names, histograms vLLM's with llama-server's prefix.
"""
# SPDX-License-Identifier: MIT

from .engine import gpu

_PREFIX = "llamacpp:"

# Upper bounds of the histograms in seconds. A token takes milliseconds on a real machine, and
# seconds on an emulated one.
_TIMES = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)


class Histogram:
    """Counts times in the intervals between _TIMES."""

    def __init__(self):
        self.counts = [0] * (len(_TIMES) + 1)
        self.sum = 0.0

    def observe(self, ms):
        """Count a time in milliseconds."""
        seconds = ms / 1000
        self.sum += seconds
        i = 0
        while i < len(_TIMES) and seconds > _TIMES[i]:
            i += 1
        self.counts[i] += 1

    def lines(self, name):
        """Return its lines in the text format."""
        total = 0
        lines = []
        for i in range(len(_TIMES)):
            total += self.counts[i]
            lines.append('%s_bucket{le="%s"} %d' % (name, _TIMES[i], total))
        total += self.counts[-1]
        lines.append('%s_bucket{le="+Inf"} %d' % (name, total))
        # With labels, if empty ones: llama.cpp's tests take a name without for a metric of its own.
        lines.append("%s_sum{} %f" % (name, self.sum))
        lines.append("%s_count{} %d" % (name, total))
        return lines


def _gpu_rows(found):
    # (kind, name, text, value); found: as of gpu().
    if not found:
        return ()
    return (
        ("gauge", "gpu_memory_used_bytes", "GPU memory in use.", found["used"]),
        ("gauge", "gpu_memory_total_bytes", "GPU memory that may be used.", found["memory"]),
        ("counter", "gpu_launches_total", "Kernels launched.", found["launches"]),
        ("counter", "gpu_graph_launches_total", "CUDA graphs launched.", found["graph_launches"]),
        ("counter", "gpu_round_trips_total", "Waits for the GPU.", found["round_trips"]),
        ("counter", "gpu_copied_bytes_total", "Bytes copied to and from it.", found["copied"]),
        ("counter", "gpu_losses_total", "Times that the GPU was lost.", found["losses"]),
    )


class Metrics:
    """Counters of a scheduler. text() says what each means."""

    def __init__(self):
        self.prompt_tokens = 0
        self.cached_tokens = 0
        self.prompt_ms = 0
        self.predicted_tokens = 0
        self.predicted_ms = 0
        self.n_decode = 0
        self.stopped = 0
        self.n_busy = 0
        self.step_ms = 0  # of all steps
        self.engine_ms = 0  # of these, decoding and sampling
        self.n_tokens_max = 0
        self.preemptions = 0  # because cells ran out
        self.displaced = 0  # because a more urgent request took the slot
        self.drafts = 0
        self.drafted = 0
        self.accepted = 0
        self.accepted_at = []  # by position in the draft
        self.finished = {}  # reason -> requests
        self.first_token = Histogram()
        self.inter_token = Histogram()
        self.queue = Histogram()
        self.e2e = Histogram()
        self._since = (0, 0, 0, 0)  # tokens and times at the last scrape, for the rates

    def finish(self, reason):
        """Count a request that ended."""
        self.finished[reason] = self.finished.get(reason, 0) + 1

    def draft(self, drafted, accepted):
        """Count a draft that was verified."""
        self.drafts += 1
        self.drafted += drafted
        self.accepted += accepted
        while len(self.accepted_at) < drafted:
            self.accepted_at.append(0)
        for i in range(accepted):
            self.accepted_at[i] += 1

    def _rates(self):
        # llama-server's gauges average over the time between two scrapes.
        now = (self.prompt_tokens, self.prompt_ms, self.predicted_tokens, self.predicted_ms)
        prompt = now[0] - self._since[0], now[1] - self._since[1]
        predicted = now[2] - self._since[2], now[3] - self._since[3]
        self._since = now
        return (
            prompt[0] * 1000 / prompt[1] if prompt[1] else 0,
            predicted[0] * 1000 / predicted[1] if predicted[1] else 0,
        )

    def text(self, scheduler):
        """Return the answer to a scrape: all counters, and the state of `scheduler`."""
        cache = scheduler.cache
        rates = self._rates()
        lines = []

        def add(kind, name, text, value):
            name = _PREFIX + name
            lines.append("# HELP %s %s" % (name, text))
            lines.append("# TYPE %s %s" % (name, kind))
            if isinstance(value, list):
                lines.extend([name + line for line in value])
            elif isinstance(value, Histogram):
                lines.extend(value.lines(name))
            else:
                lines.append("%s %s" % (name, value))

        for kind, name, text, value in (
            ("counter", "prompt_tokens_total", "Number of prompt tokens processed.",
             self.prompt_tokens),
            ("counter", "prompt_tokens_cached_total", "Number of prompt tokens reused.",
             self.cached_tokens),
            ("counter", "prompt_seconds_total", "Prompt process time", self.prompt_ms / 1000),
            ("counter", "tokens_predicted_total", "Number of generation tokens processed.",
             self.predicted_tokens),
            ("counter", "tokens_predicted_seconds_total", "Predict process time",
             self.predicted_ms / 1000),
            ("counter", "n_decode_total", "Total number of llama_decode() calls", self.n_decode),
            ("counter", "decodes_stopped_total", "Decode calls stopped: their clients had left.",
             self.stopped),
            ("counter", "step_seconds_total", "Time with requests running, all of it.",
             self.step_ms / 1000),
            ("counter", "engine_seconds_total", "Of that, time in decoding and sampling.",
             self.engine_ms / 1000),
            ("counter", "n_tokens_max", "Largest observed n_tokens.", self.n_tokens_max),
            ("gauge", "n_busy_slots_per_decode",
             "Average number of busy slots per llama_decode() call",
             self.n_busy / self.n_decode if self.n_decode else 0),
            ("gauge", "prompt_tokens_seconds", "Average prompt throughput in tokens/s.", rates[0]),
            ("gauge", "predicted_tokens_seconds", "Average generation throughput in tokens/s.",
             rates[1]),
            ("gauge", "requests_processing", "Number of requests processing.",
             len(scheduler.running)),
            ("gauge", "requests_deferred", "Number of requests deferred.", len(scheduler.queue)),
            ("counter", "spec_decode_num_drafts_total", "Number of drafts verified.", self.drafts),
            ("counter", "spec_decode_num_draft_tokens_total", "Number of tokens drafted.",
             self.drafted),
            ("counter", "spec_decode_num_accepted_tokens_total", "Number of drafted tokens kept.",
             self.accepted),
            ("counter", "spec_decode_num_accepted_tokens_per_pos_total",
             "Number of drafted tokens kept, by position.",
             ['{position="%d"} %d' % item for item in enumerate(self.accepted_at)]),
            ("counter", "num_preemptions_total", "Requests that had to wait again, and why.",
             ['{reason="kv_cache"} %d' % self.preemptions,
              '{reason="priority"} %d' % self.displaced]),
            ("counter", "request_success_total", "Requests ended, by reason.",
             ['{finished_reason="%s"} %d' % item for item in self.finished.items()]),
            ("gauge", "kv_cache_usage_perc", "Part of the KV cache that running requests hold.",
             cache.pinned / cache.n_cells),
            ("gauge", "kv_cache_kept_perc", "Part of the KV cache kept for its prefixes.",
             (cache.used - cache.pinned) / cache.n_cells),
            ("counter", "prefix_cache_queries", "Prompt tokens looked up.", cache.n_queries),
            ("counter", "prefix_cache_hits", "Prompt tokens found.", cache.n_hits),
            ("histogram", "time_to_first_token_seconds", "From arrival to the first token.",
             self.first_token),
            ("histogram", "inter_token_latency_seconds", "Between two tokens of a request.",
             self.inter_token),
            ("histogram", "request_queue_time_seconds", "From arrival to the first step.",
             self.queue),
            ("histogram", "e2e_request_latency_seconds", "From arrival to the last token.",
             self.e2e),
        ):  # fmt: skip
            add(kind, name, text, value)
        for row in _gpu_rows(gpu()):
            add(*row)
        return "\n".join(lines) + "\n"
