"""A stretch of llama.cpp's code that allocates nothing ends when its request has used its time up.

jinja's `replace` works in place: for n matches in a text of n bytes it moves n^2 bytes.
"""

import json
import os
import subprocess
import sys
import time

import pytest
from support import tiny_model
from support.engine_library import Engine, EngineFailure
from test_budget import INVALID, LIMIT, resident

JOB_MS = 400
# What a job may overrun (native/engine/budget.cpp): two ticks of 25 ms, and what the kernel takes
# to give them; where it allocates, code of llama.cpp that catches the exception has 500 ms to end.
STRETCH_S = 0.15
ALLOCATING_S = 0.65

# Only what these tests send has a Q: common tries the template when the model is loaded.
BEGIN = "{% set x = messages[0].content %}"
LONG = BEGIN + "{% set x = x ~ x %}" * 14
TEMPLATES = {
    "one call": LONG + "{{ x|replace('Q', 'QQQ') }}",
    "a chain": LONG + "{{ x" + "|replace('Q', 'QQ')" * 20 + " }}",
    "the same length": LONG
    + "{{ x|replace('aQ', 'Qa')|replace('Qa', 'aQ')|replace('Q', 'QQQ') }}",
    "with allocations between": BEGIN
    + "{% set x = x ~ x ~ x ~ x %}" * 6
    + """
        {%- set ns = namespace(a=[]) %}
        {%- if 'Q' in x %}{% for i in range(10000) %}
            {%- set ns.a = [x|replace('Q', 'QQ')|length, [i, 'é' ~ i], ns.a|length] %}
            {%- for j in range(i % 50) %}{% set y = [i, j, x[:j], {'k': 'v' ~ j}] %}{% endfor %}
        {%- endfor %}{% endif %}{{ x }}""",
}


def margin_s(name):
    return ALLOCATING_S if "allocations" in name else STRETCH_S


def question(text):
    return json.dumps([{"role": "user", "content": text}])


def served(library, folder, name):
    path = folder / "model.gguf"
    tiny_model.make(path, template=TEMPLATES[name])
    return Engine(library, path, job_ms=JOB_MS)


@pytest.mark.parametrize("name", TEMPLATES)
def test_a_stretch_ends_in_time(library, tmp_path, name):
    with served(library, tmp_path, name) as engine:
        began = time.process_time()
        with pytest.raises(EngineFailure, match="too long to process") as failure:
            engine.apply_template(question("aQ" * 30))
        assert failure.value.code in (LIMIT, INVALID)
        assert time.process_time() - began < JOB_MS / 1000 + margin_s(name)
        assert "hi" in engine.apply_template(question("hi"))


@pytest.mark.parametrize("name", TEMPLATES)
def test_nothing_is_lost_by_50_stretches(library, tmp_path, name):
    """Each is left somewhere else, in the middle of malloc() as likely as elsewhere."""
    with served(library, tmp_path, name) as engine:
        tokens = engine.tokenize("hello world")
        for i in range(53):
            ms = 1 + 5 * (i % 20)
            request = {"messages": [{"role": "user", "content": "aQ" * (20 + i)}]}
            job, later = engine.start_chat(request, ms=ms), engine.start_tokenize("hello world")
            with pytest.raises(EngineFailure, match="too long to process"):
                job.finish()
            assert job.ms() < ms + 1000 * margin_s(name)
            assert later.finish() == tokens
            job.close()
            later.close()
            if i == 3:
                before = resident()
        assert resident() - before < 20  # MiB
        assert "hi" in engine.apply_template(question("hi"))


def test_a_stretch_that_nobody_wants_ends(library, tmp_path):
    with served(library, tmp_path, "one call") as engine:
        began = time.process_time()
        job = engine.start_chat({"messages": [{"role": "user", "content": "Q" * 60}]}, ms=60000)
        time.sleep(0.05)
        job.close()
        assert engine.start_tokenize("hello").finish() == engine.tokenize("hello")
        assert time.process_time() - began < STRETCH_S + 0.2


def test_an_engine_may_be_closed_in_a_stretch(library, tmp_path):
    with served(library, tmp_path, "one call") as engine:
        job = engine.start_chat({"messages": [{"role": "user", "content": "Q" * 60}]}, ms=60000)
        time.sleep(0.05)
        began = time.monotonic()
    assert time.monotonic() - began < 5
    with pytest.raises(EngineFailure, match="closed"):
        job.finish()
    job.close()


def test_a_model_whose_template_is_a_stretch(library, tmp_path):
    """It is tried while the model is loaded, and the model stays of use."""
    path = tmp_path / "model.gguf"
    tiny_model.make(
        path,
        template="{% set x = 'Q' %}" + "{% set x = x ~ x %}" * 20 + "{{ x|replace('Q', 'QQQ') }}",
    )
    began = time.process_time()
    with Engine(library, path, job_ms=JOB_MS) as engine:
        # Without a limit it takes minutes. The process has other threads, so this is not exact.
        assert time.process_time() - began < 4 + 26
        with pytest.raises(EngineFailure, match="too long to process"):
            engine.apply_template(question("x"))
        assert engine.tokenize("hello")


# sysinfo(2) of a host whose memory is full of copies of files.
FULL_PAGE_CACHE = """
#include <string.h>
#include <sys/sysinfo.h>
int sysinfo(struct sysinfo *info) {
    memset(info, 0, sizeof *info);
    info->freeram = 1 << 20;
    info->mem_unit = 1;
    return 0;
}
"""


def test_a_full_page_cache_is_no_lack_of_memory(tmp_path):
    """Else the template would be refused for its memory, before its time is up."""
    source, shared = tmp_path / "sysinfo.c", tmp_path / "sysinfo.so"
    source.write_text(FULL_PAGE_CACHE)
    subprocess.run(["cc", "-shared", "-fPIC", "-o", shared, source], check=True)
    test = f"{__file__}::{test_a_model_whose_template_is_a_stretch.__name__}"
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", test],
        env={**os.environ, "LD_PRELOAD": str(shared)},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout
