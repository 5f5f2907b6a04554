"""cllm side by side with llama-server in a small Linux guest; `main.py` is the command."""
