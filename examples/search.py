"""Semantic search over a few notes, by embeddings.

curl 'http://127.0.0.1:8080/search?q=what+do+cats+eat'
"""
# SPDX-License-Identifier: MIT

from cllm import app, llm

NOTES = ["Cats eat fish.", "The sea is deep.", "Bread is made of flour."]
vectors = []


def likeness(a, b):
    return sum([a[i] * b[i] for i in range(len(a))])


@app.get("/search")
async def search(request):
    while len(vectors) < len(NOTES):
        vectors.append(await llm.embed(NOTES[len(vectors)]))
    wanted = await llm.embed(request.query.get("q", ""))
    found = [(likeness(wanted, vectors[i]), NOTES[i]) for i in range(len(NOTES))]
    return [{"note": note, "likeness": score} for score, note in sorted(found, reverse=True)]
