"""The beginning of the chat template is in the cache before the first question."""

import time

import requests
from support import tiny_model
from support.api_server import ApiServer

SYSTEM = "{% if messages[0].role != 'system' %}<|im_start|>system\nYou are a test.<|im_end|>\n"
TEMPLATE = (
    SYSTEM + "{% endif %}{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}"
    "<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def ask(server, *messages):
    body = {
        "messages": [{"role": role, "content": text} for role, text in messages],
        "max_tokens": 2,
        "temperature": 0,
    }
    answer = requests.post(server.url + "/v1/chat/completions", json=body).json()
    return answer["timings"]["cache_n"], answer["choices"][0]["message"]["content"]


def test_the_first_question_costs_its_own_tokens(tiny, tmp_path):
    path = tmp_path / "model.gguf"
    tiny_model.make(path, template=TEMPLATE)
    with ApiServer(path) as server:
        tokens = requests.post(
            server.url + "/tokenize",
            json={
                "content": "<|im_start|>system\nYou are a test.<|im_end|>\n<|im_start|>user\n",
                "parse_special": True,
                "add_special": True,
            },
        ).json()["tokens"]
        first, text = ask(server, ("user", "Hi"))
        assert first == len(tokens)
        # The next conversation finds it, too; one with a system prompt of its own finds less.
        assert ask(server, ("user", "Other"))[0] == len(tokens)
        assert ask(server, ("system", "Mine"), ("user", "Hi"))[0] < len(tokens)
    with ApiServer(path) as server:
        while server.scheduler.holds or server.scheduler.beginning:
            time.sleep(0.01)
        server.scheduler.cache.flush()
        cold, same = ask(server, ("user", "Hi"))
        assert cold == 0 and same == text
