"""Answers over HTTP with an engine whose model, vocabulary or memory is hostile."""

import asyncio
import json

import pytest
from _engine import Assertion, BadNumbers, Error
from fake_engine import BOS, EOG, FakeEngine, Sampler
from running import Running
from serve.apis.reply import described

MARK = 258  # a control token that the model prints


class Controlled(FakeEngine):
    """Prints a control token for each "^"."""

    n_vocab = 259

    def next(self, cells):
        token = super().next(cells)
        return MARK if token == ord("^") else token

    def piece(self, token, special=False):
        if token == MARK:
            return b"<|mark|>" if special else b""
        return super().piece(token, special)


@pytest.fixture(scope="module")
def controlled(tmp_path_factory):
    with Running(tmp_path_factory.mktemp("model"), Controlled) as running:
        yield running


@pytest.mark.parametrize(
    "prompt, stop, text, word",
    [
        ("ab^cd|", ["<|mark|>"], "ab", "<|mark|>"),
        ("ab^cd|", ["zz", "<|mark|>c"], "ab", "<|mark|>c"),
        ("ab^cd|", ["mark"], "abcd", ""),
        ("ab^cd|", ["<|other|>"], "abcd", ""),
        ("ab^cd|", ["d"], "abc", "d"),
        ("ab^cd|", [], "abcd", ""),
    ],
)
def test_a_control_tokens_name_is_a_stop_string(controlled, prompt, stop, text, word):
    body = controlled.call("/completion", {"prompt": prompt, "stop": stop})[1]
    assert (body["content"], body["stopping_word"]) == (text, word)
    events = controlled.stream("/v1/completions", {"prompt": prompt, "stop": stop})
    assert "".join([e["choices"][0]["text"] for e in events[:-1]]) == text
    message = {"role": "user", "content": prompt[:-1]}
    body = {"messages": [message], "max_tokens": 20, "stop_sequences": stop}
    answer = controlled.call("/v1/messages", body)[1]
    assert answer["content"] == [{"type": "text", "text": text, "citations": None}]
    assert answer["stop_sequence"] == (word or None)


class Beginning(FakeEngine):
    """Its texts begin with a token that has a name."""

    add_bos = True

    def tokenize(self, text, add_special=True, parse_special=True):
        tokens = [BOS] if add_special else []
        if parse_special and text.startswith("<bos>"):
            tokens.append(BOS)
            text = text[5:]
        return tokens + list(text.encode())


@pytest.fixture(scope="module")
def beginning(tmp_path_factory):
    with Running(tmp_path_factory.mktemp("model"), Beginning) as running:
        yield running


@pytest.mark.parametrize(
    "content, tokens",
    [
        ("ab", [BOS, 97, 98]),
        ("<bos>ab", [BOS, 97, 98]),
        ("<bos><bos>", [BOS, *b"<bos>"]),
        (["name", 5, "name"], [BOS, *b"name", 5, *b"name"]),
        (["a", 5, "a", "a"], [BOS, 97, 5, 97, 97]),
        (["<bos>a", 5, "<bos>a"], [BOS, 97, 5, BOS, 97]),
        ([5, "a"], [5, 97]),
        ([BOS, "a"], [BOS, 97]),
        (["", 5], [BOS, 5]),
    ],
)
def test_one_beginning(beginning, content, tokens):
    body = {"content": content, "add_special": True}
    assert beginning.call("/tokenize", body)[1] == {"tokens": tokens}
    prompts = content if isinstance(content, str) else [content]
    answer = beginning.call("/completion", {"prompt": prompts, "n_predict": 0})[1]
    assert answer["tokens_evaluated"] == len(tokens)
    answer = beginning.call("/v1/embeddings", {"input": prompts})[1]
    assert answer["usage"]["prompt_tokens"] == len(tokens)
    if isinstance(content, list):
        body = {"content": content, "add_special": False}
        assert BOS not in beginning.call("/tokenize", body)[1]["tokens"][:1] or content[0] in (
            BOS, "<bos>a",
        )  # fmt: skip


class Probable(FakeEngine):
    """All its alternatives are bytes that are no UTF-8 by themselves, or share a text."""

    n_vocab = 1000
    pieces = {300: b"same", 301: b"same", 302: b"\xf0\x9f", 303: b"\xf0", 304: b"x" * 1000000}

    def piece(self, token, special=False):
        return self.pieces.get(token) or (super().piece(token, special) if token < 258 else b"")

    def logprobs(self, index, token, n):
        others = [200, 201, 240, 257, 256, 300, 301, 302, 303, 304, 65]
        return -0.5, [(t, -1.0 - i) for i, t in enumerate(others)][:n]


@pytest.fixture(scope="module")
def probable(tmp_path_factory):
    with Running(tmp_path_factory.mktemp("model"), Probable) as running:
        yield running


def test_no_alternative_hides_another(probable):
    body = {"prompt": "h\xe9|", "logprobs": 11}
    logprobs = probable.call("/v1/completions", body)[1]["choices"][0]["logprobs"]
    for top in logprobs["top_logprobs"]:
        assert sorted(top.values()) == [-11.0 + i for i in range(11)]
        assert {"bytes:\\xc8", "bytes:\\xf0", "bytes:\\xf0\\x9f", "<eog>", "same", "A"} < set(top)
    assert logprobs["tokens"][:3] == ["h", "bytes:\\xc3", "bytes:\\xa9"]
    assert logprobs["text_offset"] == [0, 1, 2, 3]
    events = probable.stream("/v1/completions", body)
    assert len(events[1]["choices"][0]["logprobs"]["top_logprobs"][0]) == 11


def test_a_long_token_is_shown_in_part(probable):
    body = {"prompt": "hi|", "logprobs": 11}
    choice = probable.call("/v1/completions", body)[1]["choices"][0]
    tops = choice["logprobs"]["content"][0]["top_logprobs"]
    assert [(len(top["token"]), top["bytes"]) for top in tops if top["id"] == 304] == [
        (1024, None)
    ]
    assert max([len(key) for key in choice["logprobs"]["top_logprobs"][0]]) == 1024


def test_others_have_turns_while_probabilities_are_described():
    turns = []

    async def other():
        while True:
            turns.append(len(said))
            await asyncio.sleep(0)

    async def go():
        task = asyncio.create_task(other())
        found = await described(range(50), lambda item: said.append(item) or -item)
        task.cancel()
        return found

    said = []
    assert asyncio.run(go()) == [-i for i in range(50)]
    assert max([b - a for a, b in zip(turns, turns[1:])]) == 1 and len(turns) >= 49


class Sampled(Sampler):
    """Knows a vocabulary's probabilities, in order."""

    asked = []

    def probs(self, n):
        Sampled.asked.append(n)
        others = [t for t in range(200) if t != self.last]
        return [(t, 0.001) for t in others[:150]] + [(self.last, 0.0005)][: max(0, n - 150)]


def test_a_token_far_behind_has_its_probability(tmp_path):
    class Engine(FakeEngine):
        def sampler(self, params, chat=None):
            return Sampled(self)

    with Running(tmp_path, Engine) as running:
        body = {"prompt": "a|", "n_probs": 3, "post_sampling_probs": True, "n_predict": 1}
        entry = running.call("/completion", body)[1]["completion_probabilities"][0]
        assert entry["prob"] == 0.0005 and len(entry["top_probs"]) == 3
        assert min(Sampled.asked) < 100  # not a whole vocabulary for each token


class Stuck(Sampler):
    """Fails at its third token."""

    words = "Unexpected empty grammar stack after accepting piece: b (98)"
    kind = Error

    def sample(self, index):
        self.count = getattr(self, "count", 0) + 1
        if self.count == 3:
            raise self.kind(self.words)
        return super().sample(index)


class StuckEngine(FakeEngine):
    def sampler(self, params, chat=None):
        return Stuck(self)


@pytest.fixture
def stuck(tmp_path):
    with Running(tmp_path, StuckEngine) as running:
        yield running


CONSTRAINTS = [
    {"grammar": 'root ::= "ab"', "ignore_eos": True},
    {"json_schema": {"type": "object"}, "min_tokens": 10},
    {"response_format": {"type": "json_object"}},
    {"logit_bias": {"97": False}},
]


@pytest.mark.parametrize("fields", CONSTRAINTS)
@pytest.mark.parametrize(
    "kind, words", [(Error, Stuck.words), (Assertion, "GGML_ASSERT(cur_p.selected != -1) failed")]
)
def test_constraints_that_cannot_go_on_are_the_requests(stuck, monkeypatch, fields, kind, words):
    monkeypatch.setattr(Stuck, "kind", kind)
    monkeypatch.setattr(Stuck, "words", words)
    for path in ("/completion", "/v1/completions"):
        status, body = stuck.call(path, dict(fields, prompt="abcd|"))
        assert (status, body["error"]["type"]) == (400, "invalid_request_error")
        assert "constraints" in body["error"]["message"]
        assert "GGML" not in body["error"]["message"]
    # In the middle of a stream it is an event, of the same kind.
    events = stuck.stream("/v1/completions", dict(fields, prompt="abcd|"))
    assert events[0]["choices"][0]["text"] == "a" and events[-1]["error"]["code"] == 400
    assert stuck.call("/health")[0] == 200


def test_what_the_model_computes_is_not_the_requests(stuck, monkeypatch):
    monkeypatch.setattr(Stuck, "kind", BadNumbers)
    monkeypatch.setattr(Stuck, "words", "the model computed logits that are not numbers")
    status, body = stuck.call("/completion", {"prompt": "abcd|", "ignore_eos": True})
    assert status == 500 and body["error"]["message"] == Stuck.words
    monkeypatch.setattr(Stuck, "kind", Error)
    monkeypatch.setattr(Stuck, "words", "something else")
    assert stuck.call("/completion", {"prompt": "abcd|"})[0] == 500


@pytest.mark.parametrize("decoding", [False, True])
def test_too_little_memory_is_a_503(tmp_path, decoding):
    class Engine(FakeEngine):
        def sampler(self, params, chat=None):
            raise MemoryError("out of memory")

    with Running(tmp_path, Engine) as running:
        if decoding:
            running.host.engine.sampler = FakeEngine.sampler.__get__(running.host.engine)
            running.host.engine.next = lambda cells: (_ for _ in ()).throw(MemoryError())
        status, headers, data = running.raw("/completion", {"prompt": "ab|"})
        assert status == 503 and "memory" in json.loads(data)["error"]["message"]
        assert headers["Retry-After"]


def test_an_assertion_is_for_the_console(stuck, monkeypatch, capsys):
    monkeypatch.setattr(Stuck, "kind", Assertion)
    monkeypatch.setattr(Stuck, "words", "map::at:  key not found")
    status, body = stuck.call("/completion", {"prompt": "abcd|"})
    assert status == 500 and "map::at" not in body["error"]["message"]
    assert "cannot handle this request" in body["error"]["message"]
    assert "map::at" in capsys.readouterr().out


def test_a_vocabulary_without_tokens_for_a_text(tmp_path):
    class Engine(FakeEngine):
        def tokenize(self, text, add_special=True, parse_special=True):
            raise ValueError("the model's vocabulary has no token for a part of the text")

    with Running(tmp_path, Engine) as running:
        for path, body in (
            ("/completion", {"prompt": "x"}),
            ("/tokenize", {"content": "x"}),
            ("/v1/embeddings", {"input": "x"}),
            ("/v1/chat/completions", {"messages": [{"role": "user", "content": "x"}]}),
        ):
            status, answer = running.call(path, body)
            assert status == 400 and "vocabulary" in answer["error"]["message"]
            assert "unordered_map" not in answer["error"]["message"]


def test_names_that_are_no_utf8(tmp_path):
    class Engine(FakeEngine):
        def piece(self, token, special=False):
            return b"<\xff\xed\xa0\x80>" if token in (BOS, EOG) else bytes([token])

    with Running(tmp_path, Engine) as running:
        status, body = running.call("/props")
        assert status == 200 and body["bos_token"] == "<\ufffd\ufffd\ufffd\ufffd>"


def test_what_cannot_be_parsed_is_the_answers_text(controlled):
    tools = [{"type": "function", "function": {"name": "w"}}]
    for content in ("GARBAGE out", "hello GARBAGE out"):
        body = {"messages": [{"role": "user", "content": content}], "tools": tools}
        choice = controlled.call("/v1/chat/completions", body)[1]["choices"][0]
        assert choice["message"]["content"] == content and choice["finish_reason"] == "stop"
        events = controlled.stream("/v1/chat/completions", body)
        deltas = [e["choices"][0]["delta"].get("content") for e in events[1:-1]]
        assert "".join([d or "" for d in deltas]) == content
        assert events[-2]["choices"][0]["finish_reason"] == "stop"


def call(**fields):
    return dict(
        {"input": "CALL w {'a':1}", "tools": [{"type": "function", "name": "w"}]}, **fields
    )


@pytest.mark.parametrize(
    "body, kinds",
    [
        ({"input": "hello", "max_output_tokens": 3}, ["message"]),
        ({"input": "THINK ab ANSWER cd", "max_output_tokens": 17}, ["reasoning", "message"]),
        ({"input": "THINK ab ANSWER cd", "max_output_tokens": 8}, ["reasoning"]),
        (call(max_output_tokens=10), ["function_call"]),
    ],
)
def test_the_item_that_was_cut_is_incomplete(controlled, body, kinds):
    answer = controlled.call("/v1/responses", body)[1]
    assert answer["status"] == "incomplete"
    assert [item["type"] for item in answer["output"]] == kinds
    statuses = ["completed"] * (len(kinds) - 1) + ["incomplete"]
    assert [item["status"] for item in answer["output"]] == statuses
    done = [e["item"] for e in events_of(controlled, body) if e["type"].endswith("item.done")]
    assert [(item["type"], item["status"]) for item in done] == list(zip(kinds, statuses))
    assert answer["output"][-1].get("content") != []
    whole = controlled.call("/v1/responses", dict(body, max_output_tokens=100))[1]
    assert {item["status"] for item in whole["output"]} == {"completed"}


def events_of(running, body):
    data = running.raw("/v1/responses", dict(body, stream=True))[2].decode()
    return [json.loads(e.split("data: ")[1]) for e in data.split("\n\n") if e]


def test_logprobs_of_a_response(controlled):
    body = {"input": "h\xe9y", "top_logprobs": 1, "include": ["message.output_text.logprobs"]}
    (part,) = controlled.call("/v1/responses", body)[1]["output"][0]["content"]
    assert [entry["bytes"] for entry in part["logprobs"]] == [[104], [0xC3], [0xA9], [121]]
    assert set(part["logprobs"][0]) == {"token", "bytes", "logprob", "top_logprobs"}
    assert set(part["logprobs"][0]["top_logprobs"][0]) == {"token", "bytes", "logprob"}
    events = events_of(controlled, body)
    deltas = [e for e in events if e["type"] == "response.output_text.delta"]
    assert [len(e["logprobs"]) for e in deltas] == [1, 2, 1]
    done = [e for e in events if e["type"] == "response.output_text.done"]
    assert done[0]["logprobs"] == part["logprobs"]
    (part,) = controlled.call("/v1/responses", {"input": "hey", "top_logprobs": 0})[1]["output"][
        0
    ]["content"]
    assert part["logprobs"] == []


def test_defaults_that_are_written_out(controlled):
    plain = controlled.call("/v1/completions", {"prompt": "ab|"})[1]["choices"]
    defaults = {
        "best_of": 1, "suffix": "", "echo": False, "n": 1, "logprobs": None, "stop": None,
        "logit_bias": {}, "seed": None, "user": "", "presence_penalty": 0, "stream_options": None,
    }  # fmt: skip
    status, answer = controlled.call("/v1/completions", dict(defaults, prompt="ab|"))
    assert status == 200 and answer["choices"] == plain
    defaults = {
        "logprobs": False, "top_logprobs": 0, "n": 1, "tools": [], "tool_choice": "auto",
        "parallel_tool_calls": True, "response_format": {"type": "text"}, "reasoning_effort": None,
        "logit_bias": {}, "stop": [], "frequency_penalty": 0.0, "functions": None,
    }  # fmt: skip
    messages = [{"role": "user", "content": "x"}]
    body = dict(defaults, messages=messages)
    assert controlled.call("/v1/chat/completions", body)[0] == 200
    defaults = {
        "top_logprobs": 0, "include": [], "tools": [], "tool_choice": "auto", "store": True,
        "truncation": "disabled", "text": {"format": {"type": "text"}}, "metadata": {},
        "previous_response_id": None, "reasoning": None, "instructions": None, "temperature": 1.0,
        "parallel_tool_calls": True, "max_output_tokens": None, "background": False,
    }  # fmt: skip
    assert controlled.call("/v1/responses", dict(defaults, input="x"))[0] == 200
    defaults = {
        "system": [], "stop_sequences": [], "tools": [], "tool_choice": {"type": "auto"},
        "thinking": {"type": "disabled"}, "metadata": {}, "top_k": None, "stream": False,
    }  # fmt: skip
    body = dict(defaults, messages=messages, max_tokens=4)
    status, answer = controlled.call("/v1/messages", body)
    assert status == 200 and answer["content"][0]["text"] == "x"
