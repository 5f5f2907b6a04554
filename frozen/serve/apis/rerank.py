"""Reranking: how well documents answer a query, in Jina's shape and in that of Hugging Face's Text
Embeddings Inference (TEI), as llama-server has them.
"""
# SPDX-License-Identifier: MIT

from ..scheduling.errors import RequestError, invalid
from .openai import object_of
from .params import few, integer, typed

RANK = 5  # engine.h's ENGINE_POOLING_RANK
_MOST = 1024  # documents of a request


def _documents(body, name):
    documents = typed(body, name, "array")
    if not documents:
        raise invalid('"%s" must be a non-empty string array' % name)
    texts = []
    for item in few(documents, name, _MOST):
        if isinstance(item, dict):
            item = item.get("text")  # Jina's other form
        if not isinstance(item, str):
            raise invalid('"%s" must be a non-empty string array' % name)
        texts.append(item)
    return texts


async def _tokens(service, query, document, work):
    # The model's own template of a pair, or BERT's layout.
    engine = service.host.engine
    template = engine.rerank_template
    if template:
        before, _, after = template.partition("{document}")
        text = before.replace("{query}", query) + document + after.replace("{query}", query)
        return await service.tokenize(text, False, True, work)
    ends = engine.eos if engine.eos >= 0 else engine.sep
    tokens = [engine.bos] if engine.add_bos else []
    tokens += await service.tokenize(query, False, False, work)
    if engine.add_eos:
        tokens.append(ends)
    if engine.add_sep:
        tokens.append(engine.sep)
    tokens += await service.tokenize(document, False, False, work)
    if engine.add_eos:
        tokens.append(ends)
    return tokens


def install(service):
    """Add the routes to the service's application."""

    @service.api.post(
        "/v1/rerank", "/rerank", "/reranking", "/v1/reranking", takes="Rerank", gives="Any",
        codes=(501,), says="Rank documents by a query",
    )  # fmt: skip
    async def rerank(request):
        body = object_of(request)
        if service.engine().pooling != RANK:
            raise RequestError(
                501,
                "not_supported_error",
                'This model does not rank: it needs a classifier, and "pooling": "rank"',
            )
        query = typed(body, "query", "string")
        if query is None:
            raise invalid('"query" must be provided')
        tei = body.get("texts") is not None
        texts = _documents(body, "texts" if tei else "documents")
        most = integer(body, "top_n", 0, 1 << 31)
        shows = typed(body, "return_text" if tei else "return_documents", "boolean")
        work = service.prepare(request)
        found = []
        n = 0
        for i in range(len(texts)):
            tokens = await _tokens(service, query, texts[i], work)
            n += len(tokens)
            score = (await service.embed(tokens, -1, request))[0]
            found.append((-score, i))
        results = []
        for score, i in sorted(found)[:most]:
            result = {"index": i, "score" if tei else "relevance_score": -score}
            if shows:
                result.update({"text": texts[i]} if tei else {"document": {"text": texts[i]}})
            results.append(result)
        if tei:
            return results
        return {
            "model": typed(body, "model", "string") or service.host.alias,
            "object": "list",
            "usage": {"prompt_tokens": n, "total_tokens": n},
            "results": results,
        }
