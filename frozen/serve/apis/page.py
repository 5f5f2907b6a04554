"""The web page at "/": a chat in the browser, through the same API as every other client."""
# SPDX-License-Identifier: MIT

from httpd import Response

# One file with everything in it, because there may be no other server to hold parts of it. What
# the model and the server say becomes text nodes, never markup.
PAGE = b"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>cllm</title>
<style>
:root { color-scheme: light dark; font: 16px/1.5 system-ui, sans-serif }
body { max-width: 46rem; margin: 0 auto; padding: 1rem; display: flex; flex-direction: column;
  min-height: 100vh; box-sizing: border-box }
header, form { display: flex; gap: .5rem; align-items: end; flex-wrap: wrap }
header { justify-content: space-between; font-size: .85rem; opacity: .8 }
#log { flex: 1; padding: 1rem 0 }
#log p { white-space: pre-wrap; overflow-wrap: anywhere; margin: 0 0 1rem }
.user { font-weight: 600 }
.error { color: #c33 }
textarea { flex: 1; font: inherit; min-height: 3.2em }
input { font: inherit; width: 6em }
#key { width: 10em }
</style>
</head>
<body>
<header>
<span><span id="model">cllm</span> <span id="gpu"></span></span>
<label>Temperature
<input id="temperature" type="number" min="0" max="2" step="0.1" value="0.7"></label>
<label>Tokens <input id="tokens" type="number" min="1" value="256"></label>
<label>Key <input id="key" type="password" autocomplete="off"></label>
</header>
<div id="log" role="log" aria-live="polite"></div>
<form id="form">
<textarea id="text" aria-label="Message" autofocus></textarea>
<button id="send">Send</button>
<button id="clear" type="button">New chat</button>
</form>
<script>
"use strict";
const at = id => document.getElementById(id);
let messages = [], running = null;

function headers() {
  const made = {"Content-Type": "application/json"};
  if (at("key").value) made.Authorization = "Bearer " + at("key").value;
  return made;
}

function show(kind, text) {
  const line = document.createElement("p");
  line.className = kind;
  line.textContent = text;
  at("log").append(line);
  line.scrollIntoView(false);
  return line;
}

async function reason(answer) {
  try { return (await answer.json()).error.message; } catch { return "status " + answer.status; }
}

async function ask() {
  const line = show("assistant", "");
  const chat = messages; // New chat begins another
  let text = "", rest = "";
  running = new AbortController();
  at("send").textContent = "Stop";
  try {
    const answer = await fetch("/v1/chat/completions", {
      method: "POST", headers: headers(), signal: running.signal,
      body: JSON.stringify({messages: chat, stream: true, max_tokens: +at("tokens").value,
        temperature: +at("temperature").value}),
    });
    if (!answer.ok) throw new Error(await reason(answer));
    const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
    for (;;) {
      const {done, value} = await reader.read();
      if (done) break;
      const events = (rest + value).split("\\n\\n");
      rest = events.pop();
      for (const event of events) {
        if (!event.startsWith("data: ") || event === "data: [DONE]") continue;
        const data = JSON.parse(event.slice(6));
        if (data.error) throw new Error(data.error.message);
        for (const choice of data.choices) text += choice.delta.content || "";
        line.textContent = text;
        line.scrollIntoView(false);
      }
    }
  } catch (error) {
    if (error.name !== "AbortError") show("error", error.message);
  }
  running = null;
  at("send").textContent = "Send";
  if (text) chat.push({role: "assistant", content: text});
  else chat.pop();
}

at("form").onsubmit = event => {
  event.preventDefault();
  if (running) return running.abort();
  const text = at("text").value.trim();
  if (!text) return;
  at("text").value = "";
  messages.push({role: "user", content: text});
  show("user", text);
  ask();
};
at("text").onkeydown = event => {
  if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
    event.preventDefault();
    if (!running) at("form").requestSubmit();
  }
};
at("clear").onclick = () => {
  if (running) running.abort();
  messages = [];
  at("log").replaceChildren();
};

(async function greet() {
  const answer = await fetch("/v1/models", {headers: headers()}).catch(() => null);
  if (answer && answer.ok) at("model").textContent = (await answer.json()).data[0].id;
  else setTimeout(greet, 2000);
})();

async function look() {
  const answer = await fetch("/health").catch(() => null);
  const gpu = answer && answer.ok && (await answer.json()).gpu;
  const mib = bytes => Math.round(bytes / 1048576);
  at("gpu").textContent = gpu
    ? "on " + gpu.name + ", " + mib(gpu.used) + " of " + mib(gpu.memory) + " MiB" : "";
  if (gpu || !answer || !answer.ok) setTimeout(look, 10000);
}
look();
</script>
</body>
</html>
"""

# Loads nothing from elsewhere, and appears inside no other page.
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; connect-src 'self'; "
    "script-src 'unsafe-inline'; style-src 'unsafe-inline'; frame-ancestors 'none'"
}


def install(service):
    """Add the route to the service's application. A "/" of user code takes its place."""

    @service.api.get("/", gives="text/html", says="A chat in the browser")
    def page(request):
        return Response(PAGE, headers=dict(HEADERS), content_type="text/html; charset=utf-8")
