# Serving a language model: engine, scheduler, and the HTTP routes on top of them.
# MIT license; Copyright (c) 2026 cllm contributors
