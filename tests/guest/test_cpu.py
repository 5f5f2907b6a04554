"""One image for every processor from Nehalem on: it uses the best instructions of each."""

import pytest
import requests
from cllm import VERSION

TIMEOUT = 120


def completion(guest):
    answer = requests.post(
        guest.url + "/v1/completions",
        timeout=TIMEOUT,
        json={"prompt": "The world is round", "max_tokens": 8, "temperature": 0},
    )
    return answer.json()["choices"][0]["text"]


def variant(guest):
    return requests.get(guest.url + "/props", timeout=TIMEOUT).json()["cpu_variant"]


@pytest.mark.parametrize(
    "cpu, best",
    [
        ("Nehalem", "sse42"),  # no XSAVE either
        ("SandyBridge", "sse42"),  # AVX without AVX2
        ("Haswell", "avx2"),
        ("EPYC", "avx2"),
        ("Icelake-Server", "avx2"),  # QEMU emulates no AVX-512
    ],
)
def test_the_best_instructions_of_the_processor_compute(boot, tiny_model, cpu, best):
    guest = boot(model=str(tiny_model), cpu=cpu, smp=2)
    assert guest.verdict is None
    assert variant(guest) == best
    assert completion(guest)
    answer = requests.post(
        guest.url + "/v1/chat/completions",
        timeout=TIMEOUT,
        json={
            "messages": [{"role": "user", "content": "Hello"}],
            "max_tokens": 8,
            "seed": 1,
            "logprobs": True,
            "response_format": {"type": "json_object"},
        },
    )
    assert answer.status_code == 200
    answer = requests.post(guest.url + "/v1/embeddings", json={"input": "Hello"}, timeout=TIMEOUT)
    assert answer.status_code == 200


def test_another_variant_can_be_asked_for(guest, boot, tiny_model):
    assert variant(guest) == "avx2"
    older = boot(model=str(tiny_model), cpu_variant="sse42")
    assert variant(older) == "sse42"
    assert completion(older)


def test_a_variant_that_the_processor_lacks_is_an_error(boot, tiny_model):
    guest = boot(model=str(tiny_model), cpu_variant="avx512-vnni")
    wanted = "'avx512-vnni' needs; it can run: sse42, avx2"
    assert wanted in guest.verdict
    answer = requests.get(guest.url + "/health", timeout=TIMEOUT)
    assert answer.status_code == 503 and wanted in answer.json()["error"]["message"]


@pytest.mark.parametrize(
    "wanted, chosen", [(None, "exact"), ("exact", "exact"), ("ggml", "ggml"), ("tcg", "tcg")]
)
def test_kernels_can_be_chosen(boot, tiny_model, wanted, chosen):
    guest = boot(model=str(tiny_model), **({"kernels": wanted} if wanted else {}))
    assert guest.verdict is None
    props = requests.get(guest.url + "/props", timeout=TIMEOUT).json()
    assert (props["kernels"], props["cllm_version"]) == (chosen, VERSION)
    assert completion(guest)


def test_without_avx2_there_are_no_kernels_for_tcg(boot, tiny_model):
    older = boot(model=str(tiny_model), cpu_variant="sse42")
    assert requests.get(older.url + "/props", timeout=TIMEOUT).json()["kernels"] == "exact"
    assert completion(older)
    guest = boot(model=str(tiny_model), cpu_variant="sse42", kernels="tcg")
    assert "the kernels 'tcg' come with 'avx2', and 'sse42' is in use" in guest.verdict
