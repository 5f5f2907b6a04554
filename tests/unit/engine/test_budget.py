"""What a request hands to llama.cpp costs a bounded amount of time, memory and stack.

Each of these inputs made llama.cpp recurse without end, or take minutes or all memory.
"""

import gc
import json
import resource
import time
from pathlib import Path

import pytest
from support import tiny_model
from support.engine_library import Engine, EngineFailure

JOB_MS = 1500
SAMPLE_MS = 200
LIMIT = 3  # ENGINE_LIMIT
INVALID = -1  # ENGINE_EINVAL


def nested_types(depth, count):
    schema = {"type": "string"}
    for _ in range(depth):
        schema = {"type": ["object"] * count, "properties": {"a": schema}}
    return schema


def chain(length):
    """A schema of references, each to the next; no cycle."""
    links = {f"d{i}": {"$ref": f"#/$defs/d{i + 1}"} for i in range(length)}
    return {"$ref": "#/$defs/d0", "$defs": {**links, f"d{length}": {"type": "string"}}}


def cycle(*names):
    following = dict(zip(names, names[1:] + names[:1], strict=True))
    definitions = {name: {"$ref": f"#/$defs/{following[name]}"} for name in names}
    return {"allOf": [{"$ref": f"#/$defs/{names[0]}"}], "$defs": definitions}


SCHEMAS = {
    "cycle": cycle("a"),
    "cycle of two": cycle("a", "b"),
    "chain": chain(12000),
    "types that multiply": nested_types(20, 3),
    "pattern": {"type": "string", "pattern": "^(a{7,3})$"},
    "lengths": {"type": "string", "minLength": 9, "maxLength": 2},
    "900 optional properties": {
        "type": "object",
        "properties": {f"p{i}": {"type": "string"} for i in range(900)},
    },
    "a large enumeration": {"enum": ["x" * 1000] * 5000},
}

GRAMMARS = {
    "bounds the wrong way round": 'root ::= "a"{9,2}',
    "in a group": 'root ::= ("a" | "b"{3, 1} )*',
    "a long literal repeated": 'root ::= "' + "a" * 30000 + '"{2000}',
    "a chain of rules": "root ::= r0\n"
    + "".join(f"r{i}::=r{i + 1}\n" for i in range(4100))
    + 'r4100 ::= "a"',
}

TEMPLATES = {
    "parentheses": "{{ " + "(" * 100000 + "1" + ")" * 100000 + " }}",
    "not": "{{ " + "not " * 200000 + "1 }}",
    "if": "{% if 1 %}" * 50000 + "x" + "{% endif %}" * 50000,
    "list": "{% set a = " + "[" * 100000 + "]" * 100000 + " %}x",
    "sum": "{{ " + "1+" * 100000 + "1 }}",
    "filters": "{{ a" + "|upper" * 100000 + " }}",
    "macro": "{% macro f(n) %}{{ f(n + 1) }}{% endmacro %}{{ f(0) }}",
    "value in itself": "{% set ns = namespace(x=[]) %}{% set ns.x = ns %}{{ ns | tojson }}",
    "loops": "{% for i in range(100000) %}{% for j in range(100000) %}{% endfor %}{% endfor %}x",
    "doubling": "{% set ns = namespace(x='abcdefgh') %}{% for i in range(40) %}"
    "{% set ns.x = ns.x ~ ns.x %}{% endfor %}{{ ns.x }}",
}


@pytest.fixture
def engine(library, tiny):
    with Engine(library, tiny, sample_ms=SAMPLE_MS, job_ms=JOB_MS) as engine:
        yield engine


def resident():
    """Return the MiB of memory that this process has."""
    gc.collect()  # what pytest keeps of the failures
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() >> 20


def refused(function):
    """Calls it; checks that it fails as the request's fault, after its budget at most."""
    began = time.process_time()
    with pytest.raises(EngineFailure) as failure:
        function()
    assert failure.value.code in (LIMIT, INVALID)
    assert "ASSERT" not in str(failure.value)
    assert time.process_time() - began < JOB_MS / 1000 + 1
    return str(failure.value)


def goes_on(engine):
    """The engine answers as before."""
    assert engine.tokenize("hello") == engine.tokenize("hello")
    sampler = engine.sampler(json.dumps({"json_schema": {"type": "integer"}}))
    sampler.close()
    assert "hi" in engine.apply_template('[{"role": "user", "content": "hi"}]')


@pytest.mark.parametrize("schema", SCHEMAS.values(), ids=SCHEMAS)
def test_a_schema_that_cannot_be_converted(engine, schema):
    def converse():
        with engine.chat(
            {"messages": [{"role": "user", "content": "x"}], "json_schema": schema}
        ) as chat:
            engine.sampler("{}", chat).close()

    refused(lambda: engine.sampler(json.dumps({"json_schema": schema})))
    refused(converse)
    goes_on(engine)


@pytest.mark.parametrize("grammar", GRAMMARS.values(), ids=GRAMMARS)
def test_a_grammar_that_cannot_be_used(engine, grammar):
    refused(lambda: engine.sampler(json.dumps({"grammar": grammar})))
    goes_on(engine)


def test_the_reason_for_a_grammar_is_the_parsers(engine):
    reason = refused(lambda: engine.sampler('{"grammar": "root ::= \\"a\\"{1,"}'))
    assert "expecting '}'" in reason


@pytest.mark.parametrize("template", TEMPLATES.values(), ids=TEMPLATES)
def test_a_template_that_does_not_end(library, tmp_path, template):
    path = tmp_path / "model.gguf"
    tiny_model.make(path, template=template)
    with Engine(library, path, job_ms=JOB_MS) as engine:  # the model stays of use
        with pytest.raises(EngineFailure) as failure:
            engine.apply_template('[{"role": "user", "content": "x"}]')
        assert str(failure.value)
        assert engine.tokenize("hello")


def test_nothing_is_lost_by_what_is_abandoned(engine):
    """Recursion without an allocation ends on the guard page, and its memory is freed."""
    padded = cycle("a")
    padded["$defs"]["unused"] = {"enum": ["x" * 100] * 20000}
    for _ in range(3):
        refused(lambda: engine.sampler(json.dumps({"json_schema": padded})))
    before = resident()
    for _ in range(40):
        refused(lambda: engine.sampler(json.dumps({"json_schema": padded})))
    assert resident() - before < 40  # MiB; each try takes several


def test_a_job_beside_others(engine):
    jobs = [
        engine.start_sampler(json.dumps({"json_schema": nested_types(20, 3)})),
        engine.start_tokenize("hello world"),
        engine.start_chat({"messages": [{"role": "user", "content": "x"}]}),
    ]
    tokens = jobs[1].finish()
    assert tokens == engine.tokenize("hello world")
    with jobs[2].finish() as chat:
        assert "x" in chat.describe()
    with pytest.raises(EngineFailure, match="The grammar or schema"):
        jobs[0].finish()
    assert all(job.ended() for job in jobs)
    assert jobs[0].ms() > 50
    for job in jobs:
        with pytest.raises(EngineFailure, match="no such result"):  # it is taken once
            job.finish()
        job.close()


def test_a_job_that_nobody_wants_ends(engine):
    began = time.monotonic()
    job = engine.start_sampler(json.dumps({"json_schema": nested_types(20, 3)}), ms=30000)
    time.sleep(0.05)
    job.close()
    assert engine.start_tokenize("hello").finish() == engine.tokenize("hello")
    assert time.monotonic() - began < 10


def test_a_conversation_may_be_closed_before_its_sampler_is_made(engine):
    with engine.chat(
        {"messages": [{"role": "user", "content": "x"}], "json_schema": {"const": "sure"}}
    ) as chat:
        job = engine.start_sampler('{"temperature": 0}', chat)
    sampler = job.finish()
    job.close()
    assert sampler.constrained
    sampler.close()
    plain = engine.sampler('{"temperature": 0}')
    assert not plain.constrained


def test_an_engine_may_be_closed_before_its_jobs(library, tiny):
    with Engine(library, tiny) as engine:
        jobs = [
            engine.start_sampler(json.dumps({"json_schema": nested_types(20, 3)}), ms=60000),
            engine.start_tokenize("hello"),
        ]
    for job in jobs:
        with pytest.raises(EngineFailure, match="closed"):
            job.finish()
        job.close()


GRAMMAR = json.dumps({"grammar": 'root ::= "aha" [a-z ]*', "temperature": 0})
DOUBLING = json.dumps(
    {"grammar": 'root ::= "a" root t | "a" root u\nt ::= "b"\nu ::= "b"', "temperature": 0}
)


def generate(engine, params, n, beside):
    """n tokens after a prompt. beside: their batch's logits are gone when they are chosen."""
    engine.clear()
    sampler = engine.sampler(params)
    engine.prompt([5, 6, 7])
    made, known = [], []
    for i in range(n):
        index = 0 if i else 2
        if beside:
            sampler.start(index)
            engine.decode([9], [i], [1], [1])  # another sequence's
            made.append(sampler.finish())
            known.append((sampler.logprobs(made[-1], 3), sampler.probs(3)))
        else:
            made.append(sampler.sample(index))
            known.append((engine.logprobs(index, made[-1], 3), sampler.probs(3)))
        engine.decode([made[-1]], [3 + i], [0], [1])
    sampler.close()
    return made, known


@pytest.mark.parametrize(
    "params",
    [
        GRAMMAR,
        json.dumps({"grammar": "root ::= [a-z ]*", "temperature": 1, "seed": 3, "min_tokens": 8}),
        json.dumps({"json_schema": {"type": "array", "items": {"type": "integer"}}, "seed": 1}),
        json.dumps({"temperature": 1, "seed": 5}),
    ],
)
def test_a_sample_of_a_copy_is_the_same(engine, params):
    """Tokens and probabilities, though the engine has decoded something else since."""
    assert generate(engine, params, 12, True) == generate(engine, params, 12, False)


def test_sampling_beside_the_engine(engine):
    sampler = engine.sampler(GRAMMAR)
    engine.prompt([5, 6, 7])
    with pytest.raises(EngineFailure, match="nothing to finish"):
        sampler.finish()
    with pytest.raises(EngineFailure, match="entry 1"):
        sampler.start(1)
    sampler.start(2)
    for call in (
        lambda: sampler.start(2),
        lambda: sampler.sample(2),
        lambda: sampler.accept(1),
        lambda: sampler.probs(1),
        lambda: sampler.logprobs(1, 1),
    ):
        with pytest.raises(EngineFailure, match="choosing a token"):
            call()
    token = sampler.finish()
    assert engine.piece(token) and b"aha".startswith(engine.piece(token))
    assert sampler.us() > 0
    goes_on(engine)


def test_a_sampler_may_be_closed_while_it_is_sampling(engine):
    """Its thread frees it; those that wait for the thread are next."""
    engine.prompt([5, 6, 7])
    for _ in range(20):
        samplers = [engine.sampler(GRAMMAR) for _ in range(4)]
        for sampler in samplers:
            sampler.start(2)
        for sampler in samplers[:3]:
            sampler.close()
        assert engine.piece(samplers[3].finish())
        samplers[3].close()
    goes_on(engine)


def slow_sampler(engine, seq):
    """A sampler of an ambiguous grammar in the midst of a token that takes long."""
    sampler = engine.sampler(DOUBLING)
    engine.prompt([5, 6, 7], seq)
    index = 2
    position = 3
    while sampler.us() < 60_000:
        sampler.start(index)
        engine.decode([sampler.finish()], [position], [seq], [1])
        index = 0
        position += 1
    sampler.start(index)
    assert not sampler.ended()
    return sampler


def test_a_slow_sample_holds_up_neither_the_engine_nor_quick_ones(library, tiny):
    with Engine(library, tiny, sample_ms=20_000) as engine:
        slow = slow_sampler(engine, 0)
        quick = engine.sampler(GRAMMAR)
        engine.prompt([5, 6], 1)
        quick.start(1)
        assert engine.piece(quick.finish())
        assert not slow.ended()
        slow.close()
        goes_on(engine)


def test_an_engine_may_be_closed_while_it_is_sampling(library, tiny):
    with Engine(library, tiny, sample_ms=20_000) as engine:
        closed, kept = slow_sampler(engine, 0), slow_sampler(engine, 1)
        waiting = engine.sampler(GRAMMAR)
        waiting.start(0)
        closed.close()
        began = time.monotonic()
    assert time.monotonic() - began < 5
    for sampler in (kept, waiting):
        with pytest.raises(EngineFailure, match="closed"):
            sampler.finish()
        sampler.close()


def test_a_grammar_that_takes_ever_longer(engine):
    sampler = engine.sampler(DOUBLING)
    engine.prompt([5, 6, 7])
    with pytest.raises(EngineFailure, match="too ambiguous"):
        for i in range(200):
            sampler.start(2 if i == 0 else 0)
            engine.decode([sampler.finish()], [3 + i], [0], [1])
    with pytest.raises(EngineFailure, match="failed before"):
        sampler.start(0)
    goes_on(engine)


def test_a_grammar_whose_every_token_takes_long(engine):
    """No token is slow alone, but all of a request share its `sample_ms`."""
    rules = ["root ::= r0", *(f"r{i} ::= r{i + 1}*" for i in range(400)), 'r400 ::= "z"']
    sampler = engine.sampler(json.dumps({"grammar": "\n".join(rules), "ignore_eos": True}))
    engine.prompt([5, 6, 7])
    took = []
    with pytest.raises(EngineFailure, match="too ambiguous"):
        for _ in range(200):
            sampler.start(2)
            sampler.finish()
            took.append(sampler.us() / 1000)
    assert len(took) > 1 and max(took) < SAMPLE_MS / 2
    assert sum(took) < SAMPLE_MS + len(took) + 10
    goes_on(engine)
