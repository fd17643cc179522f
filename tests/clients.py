"""clients.py BUILD: real clients talk to ./serve --port, started here at a free port and ended by its id. Run by
`make clients`. Ends with `N passed, N failed`.

- curl: a text, a stream, a refusal.
- The openai package: texts, chats, streams, several answers, log-probabilities, errors as its exceptions.
- lm-eval's local-completions: multiple choice and generation, with the tokenizer of the server; its sums of
  log-probabilities are those of /v1/completions, whatever the order and size of its batches.
- What `vllm bench serve` sends, field by field (vllm/benchmarks/lib/endpoint_request_func.py), as fast as it would.
- The page in a headless Chromium, if there is one: it draws, and nothing is said on its console.
"""
import asyncio
import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request

import aiohttp
import lm_eval
import openai

BUILD = os.path.abspath(sys.argv[1] if len(sys.argv) > 1 else ".")
TRAIN = ("--context 64 --layers 2 --width 64 --heads 2 --batch 16 --steps 150 --eval-tokens 64 --sample-tokens 0 "
         "--data t.txt --threads 2").split()
TEXT = "the cat sat on the mat. the dog lay in the sun. a bird sang in the tree. the fish swam in the sea. "
MARKS = ["<|im_start|>", "<|im_end|>"]
counts = {"ok": 0, "FAILED": 0}


def check(name, good, *shown):
    verdict = "ok" if good else "FAILED"
    counts[verdict] += 1
    print(f"{verdict:7s} {name}", *([] if good else shown), flush=True)


def run(program, *arguments):
    return subprocess.run([os.path.join(BUILD, program), *arguments], capture_output=True, text=True, check=True)


# ---- the server ----------------------------------------------------------------------------------
@contextlib.contextmanager
def server(*flags):
    """Its address, while it runs; it must end by itself, and well, after a SIGTERM."""
    with open("serve.error", "w") as error:
        process = subprocess.Popen([os.path.join(BUILD, "serve"), "--run", "run", "--port", "0", *flags],
                                   stderr=error, stdout=subprocess.DEVNULL)
    try:
        end = time.time() + 60
        while "listening" not in open("serve.error").read() and time.time() < end and process.poll() is None:
            time.sleep(0.05)
        yield open("serve.error").read().split("listening ")[1].split("\n")[0]
    finally:
        process.send_signal(signal.SIGTERM)
        check("the server ends after a signal", process.wait(timeout=60) == 0)


def train_run():
    """A few lines learnt by heart, in bytes, with a token that ends a text."""
    with open("t.txt", "w") as f:
        f.write(TEXT * 40)
    run("train", *TRAIN[:-4], "--data", "t.txt", "--tokenizer", "byte", "--steps", "0", "--out", "bytes")
    os.mkdir("marks")
    tokenizer = json.load(open("bytes/tokenizer.json"))
    plain = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    tokenizer["added_tokens"] = [{"id": 256 + i, "content": mark, **plain} for i, mark in enumerate(MARKS)]
    json.dump(tokenizer, open("marks/tokenizer.json", "w"))
    json.dump({"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": MARKS[1]},
              open("marks/tokenizer_config.json", "w"))
    run("train", *TRAIN, "--tokenizer", "marks/tokenizer.json", "--out", "run")


def generated(prompt, *flags):
    out = run("generate", "--run", "run", "--prompt", prompt, *flags).stdout
    return out[len(prompt):-1]


def post(url, path, body):
    request = urllib.request.Request(url + path, json.dumps(body).encode(), {"Content-Type": "application/json"})
    return json.load(urllib.request.urlopen(request, timeout=60))


# ---- curl ----------------------------------------------------------------------------------------
def curl(url):
    def ask(body, *flags):
        return subprocess.run(["curl", "-sS", *flags, url + "v1/completions", "-d", json.dumps(body)],
                              capture_output=True, text=True, timeout=60).stdout
    body = {"prompt": "the cat", "max_tokens": 20, "seed": 3}
    expected = generated("the cat", "--tokens", "20", "--seed", "3")
    check("curl: the text of ./generate", json.loads(ask(body))["choices"][0]["text"] == expected)
    events = ask({**body, "stream": True}, "-N").split("\n\n")
    text = "".join(json.loads(e[6:])["choices"][0]["text"] for e in events[:-2])
    check("curl: in events", text == expected and events[-2] == "data: [DONE]" and len(events) == 22, events)
    check("curl: a refusal", ask({**body, "min_p": 0.1}, "-o", "/dev/null", "-w", "%{http_code}") == "400")


# ---- openai --------------------------------------------------------------------------------------
def with_openai(url):
    client = openai.OpenAI(base_url=url + "v1", api_key="key", max_retries=0)
    check("openai: models", [m.id for m in client.models.list()] == ["run"])
    expected = generated("the dog", "--tokens", "15", "--seed", "5")
    text = client.completions.create(model="run", prompt="the dog", max_tokens=15, seed=5)
    check("openai: a text", text.choices[0].text == expected and text.usage.completion_tokens == 15, text)
    two = client.completions.create(model="run", prompt=["the dog", "a bird"], n=2, max_tokens=15, seed=5, logprobs=2)
    check("openai: prompts times answers", [c.index for c in two.choices] == [0, 1, 2, 3] and
          two.choices[0].text == expected and len(two.choices[3].logprobs.token_logprobs) == 15, two)
    messages = [{"role": "system", "content": "be brief"}, {"role": "user", "content": "the fish"}]
    chat = client.chat.completions.create(model="run", messages=messages, max_completion_tokens=12, seed=1,
                                          logprobs=True, top_logprobs=3)
    said = chat.choices[0].message.content
    check("openai: a chat", len(chat.choices[0].logprobs.content[0].top_logprobs) == 3 and said is not None, chat)
    stream = client.chat.completions.create(model="run", messages=messages, max_completion_tokens=12, seed=1,
                                            stream=True, stream_options={"include_usage": True})
    chunks = list(stream)
    pieces = [c.choices[0].delta.content for c in chunks if c.choices]
    check("openai: a chat in events", "".join(pieces) == said and
          chunks[-1].usage.completion_tokens == len(pieces), chunks)
    for error, arguments in [(openai.NotFoundError, {"model": "x"}), (openai.BadRequestError, {"temperature": -1}),
                             (openai.BadRequestError, {"extra_body": {"guided_json": {}}})]:
        try:
            client.completions.create(**{"model": "run", "prompt": "a", "max_tokens": 1, **arguments})
            check(f"openai: {error.__name__}", False)
        except error as e:
            check(f"openai: {error.__name__}", e.body is not None)
    stream = client.completions.create(model="run", prompt="the", max_tokens=40, stream=True)
    next(iter(stream))
    stream.close()


def with_key(url):
    try:
        openai.OpenAI(base_url=url + "v1", api_key="wrong", max_retries=0).models.list()
        check("openai: a wrong key", False)
    except openai.AuthenticationError:
        check("openai: a wrong key", True)
    models = openai.OpenAI(base_url=url + "v1", api_key="right").models.list()
    check("openai: the right key", models.data[0].id == "run")


# ---- lm-eval -------------------------------------------------------------------------------------
QUESTIONS = [("the cat sat on", [" the mat", " the sea", " the sun"]), ("the dog lay in", [" the tree", " the sun"]),
             ("a bird sang in", [" the sea", " the mat", " the tree"]), ("the fish swam in", [" the sea", " the sun"])]
ANSWERS = [0, 1, 2, 0]


def evaluate(url, batch, concurrent):
    with open("questions.jsonl", "w") as f:
        for (question, choices), answer in zip(QUESTIONS, ANSWERS):
            f.write(json.dumps({"question": question, "choices": choices, "answer": answer,
                                "rest": choices[answer] + "."}) + "\n")
    common = {"dataset_path": "json", "dataset_kwargs": {"data_files": {"test": os.path.abspath("questions.jsonl")}},
              "test_split": "test", "doc_to_text": "{{question}}", "target_delimiter": ""}
    choose = {**common, "task": "choose", "output_type": "multiple_choice", "doc_to_choice": "{{choices}}",
              "doc_to_target": "answer", "metric_list": [{"metric": "acc"}]}
    write = {**common, "task": "write", "output_type": "generate_until", "doc_to_target": "{{rest}}",
             "generation_kwargs": {"until": ["."], "max_gen_toks": 30, "temperature": 0.0},
             "metric_list": [{"metric": "exact_match", "ignore_punctuation": True}]}
    arguments = {"model": "run", "base_url": url + "v1/completions", "tokenizer_backend": "auto", "max_length": 64,
                 "num_concurrent": concurrent}
    return lm_eval.simple_evaluate(model="local-completions", model_args=arguments, tasks=[choose, write],
                                   batch_size=batch, log_samples=True, bootstrap_iters=0)


def echoed(url, context, rest):
    """The sum and whether it is greedy, as lm-eval asks for it."""
    tokens = [post(url, "tokenize", {"prompt": text, "add_special_tokens": False})["tokens"]
              for text in (context, context + rest)]
    answer = post(url, "v1/completions", {"prompt": [tokens[1]], "max_tokens": 1, "echo": True, "logprobs": 1,
                                          "temperature": 0, "seed": 1234})["choices"][0]["logprobs"]
    own, top = answer["token_logprobs"][len(tokens[0]):-1], answer["top_logprobs"][len(tokens[0]):-1]
    return sum(own), all(x == max(t.values()) for x, t in zip(own, top))


def with_lm_eval(url):
    first = evaluate(url, 1, 1)
    check("lm-eval: what was learnt by heart is chosen", first["results"]["choose"]["acc,none"] == 1, first["results"])
    check("lm-eval: and written", first["results"]["write"]["exact_match,none"] == 1, first["samples"]["write"])
    sums = [[(float(r[0]), r[1] in (True, "True")) for r in s["filtered_resps"]] for s in first["samples"]["choose"]]
    direct = [[echoed(url, question, choice) for choice in choices] for question, choices in QUESTIONS]
    check("lm-eval: its sums are ours, to the bit", sums == direct, sums, direct)
    check("lm-eval: greedy answers are seen as such", [s[a][1] for s, a in zip(sums, ANSWERS)] == [True] * 4, sums)
    second = evaluate(url, 4, 3)
    again = [[(float(r[0]), r[1] in (True, "True")) for r in s["filtered_resps"]] for s in second["samples"]["choose"]]
    check("lm-eval: other batches give the same bits", again == sums, again, sums)


# ---- vllm bench serve ------------------------------------------------------------------------------
async def bench_request(session, url, prompt, tokens, chat):
    payload = {"model": "run", "repetition_penalty": 1.0, "stream": True, "stream_options": {"include_usage": True},
               "ignore_eos": True}
    if chat:
        payload.update(messages=[{"role": "user", "content": [{"type": "text", "text": prompt}]}],
                       max_completion_tokens=tokens)
    else:
        payload.update(prompt=prompt, max_tokens=tokens, logprobs=None)
    headers = {"Authorization": "Bearer key", "x-request-id": "bench-1"}
    path = "v1/chat/completions" if chat else "v1/completions"
    stamps, text, usage, start, ended = [], "", 0, time.time(), 0
    async with session.post(url + path, json=payload, headers=headers) as response:
        async for raw in response.content:
            line = raw.decode().strip()
            if not line.startswith("data: "):
                continue
            ended += line == "data: [DONE]"
            data = {} if line == "data: [DONE]" else json.loads(line[6:])
            if data.get("choices"):
                choice = data["choices"][0]
                stamps.append(time.time() - start)
                text += (choice["delta"].get("content") if chat else choice["text"]) or ""
            elif data.get("usage"):
                usage = data["usage"]["completion_tokens"]
        return response.status, stamps, text, usage, ended


async def bench(url, count, chat):
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
        tasks = []
        for i in range(count):
            tasks.append(asyncio.create_task(bench_request(session, url, TEXT[i:i + 10], 5 + i % 20, chat)))
            await asyncio.sleep(0.004 * (i % 5))
        return await asyncio.gather(*tasks)


def with_bench(url):
    for chat in (False, True):
        name = "chats" if chat else "texts"
        results = asyncio.run(bench(url, 60, chat))
        check(f"vllm bench: {name}: all are answered", all(s == 200 and end == 1 for s, _, _, _, end in results))
        check(f"vllm bench: {name}: a stamp for each token", all(len(stamps) == usage == 5 + i % 20
              for i, (_, stamps, _, usage, _) in enumerate(results)), [(len(r[1]), r[3]) for r in results])
    metrics = urllib.request.urlopen(url + "metrics").read().decode()
    names = ["num_requests_running", "kv_cache_usage_perc", "prefix_cache_queries_total", "prefix_cache_hits_total",
             "time_to_first_token_seconds_bucket", "inter_token_latency_seconds_sum", "num_preemptions_total",
             'request_success_total{model_name="run",finished_reason="length"}']
    check("vllm bench: the metrics it reads", all("\nvllm:" + name in metrics for name in names))


# ---- the page ------------------------------------------------------------------------------------
def with_page(url):
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if not chromium:
        print("absent  chromium: the page is not looked at")
        return
    from playwright.sync_api import sync_playwright
    said = []
    with sync_playwright() as p:
        browser = p.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-gpu"])
        page = browser.new_page(viewport={"width": 1400, "height": 1000})
        page.on("console", lambda message: said.append(message.text))
        page.on("pageerror", lambda error: said.append(str(error)))
        page.goto(url)
        page.fill("#prompt", "the cat sat")
        page.fill("#tokens", "30")
        page.fill("#temperature", "0")
        page.fill("#times", "8")
        page.click("#ask button")
        page.wait_for_function("document.getElementById('books').textContent.includes('length')", timeout=30000)
        page.wait_for_timeout(1000)
        colours = page.evaluate("""() => {
            const c = document.getElementById('blocks'), all = c.getContext('2d').getImageData(0, 0, c.width, c.height);
            return new Set(new Uint32Array(all.data.buffer)).size; }""")
        check("page: blocks are drawn", colours > 1, colours)
        check("page: the answer is that of ./generate", page.inner_text("#answer") == "the cat sat" + generated(
            "the cat sat", "--tokens", "30", "--temperature", "0"), page.inner_text("#answer"))
        check("page: its numbers", all(page.inner_text("#" + name).strip("%/s") != "-"
                                       for name in ("duty", "mfu", "mbu", "good")))
        check("page: nothing on the console", not said, said)
        page.screenshot(path=os.environ.get("SCREENSHOT", "page.png"), full_page=True)
        browser.close()


def main():
    with tempfile.TemporaryDirectory() as scratch:
        os.chdir(scratch)
        os.environ.update(HF_HUB_OFFLINE="1", HF_DATASETS_OFFLINE="1", OMP_WAIT_POLICY="passive", OPENAI_API_KEY="key",
                          HF_HOME=scratch)
        train_run()
        with server("--prefix-cache", "1") as url:
            curl(url)
            with_openai(url)
            with_bench(url)
            with_page(url)
        with server("--api-key", "right") as url:
            with_key(url)
        with server("--chunk", "7", "--block", "4") as url:
            with_lm_eval(url)
    print(f"{counts['ok']} passed, {counts['FAILED']} failed")
    sys.exit(counts["FAILED"] > 0)


main()
