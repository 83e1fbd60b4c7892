"""A real HTTP server with the routes of `vllm serve` that a student needs, and faults on demand."""

import contextlib
import copy
import json
import math
import random
import socket
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import torch
from peft import PeftModel
from safetensors.torch import load_file


class StudentServer(ThreadingHTTPServer):
    """Samples from its own copy of a tiny model, or, with `quick`, whatever the request's seed
    says. `plan(number)` names the fault of the number-th completion, or None; `stale` keeps old
    weights and says that it took the new."""

    # Joined when it dies: a thread that still computes when the interpreter ends aborts it.
    daemon_threads = False

    def __init__(self, model, tokenizer, plan, port=0, stale=False, quick=False):
        super().__init__(("127.0.0.1", port), Handler)
        self.quick, self.over = quick, threading.Event()
        self.model, self.tokenizer = copy.deepcopy(model), tokenizer
        self.plan, self.stale, self.lock = plan, stale, threading.Lock()
        self.bodies, self.faults, self.published, self.resets = [], [], [], 0
        self.sockets = []
        self.base, self.adapters = copy.deepcopy(model), None
        self.dead = False
        self.prompts, self.prompt_plan = [], lambda number: None
        threading.Thread(target=self.serve_forever, args=(0.02,), daemon=True).start()

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_address[1]}"

    def process_request(self, request, client_address):
        self.sockets.append(request)
        super().process_request(request, client_address)

    def die(self):
        """As a killed process: the port closes, and requests under way are cut."""
        self.dead = True
        self.over.set()
        self.shutdown()
        for each in self.sockets:
            with contextlib.suppress(OSError):  # closed already
                each.shutdown(socket.SHUT_RDWR)
        self.server_close()

    @torch.inference_mode()
    def complete(self, body):
        """Naive sampling, one token at a time; the request's own seed decides."""
        ids, sampled, logprobs = list(body["prompt"]), [], []
        rng, finish = random.Random(body.get("seed")), "length"
        while len(sampled) < body["max_tokens"] and not self.dead:
            logits = self.logits(ids)
            greedy = body.get("temperature", 1) == 0
            scores = (logits / (1 if greedy else body.get("temperature", 1))).log_softmax(-1)
            threshold = rng.random()
            places = (scores.exp().cumsum(-1) > threshold).nonzero()
            token = int(scores.argmax()) if greedy else int(places[0])
            ids.append(token)
            sampled.append(token)
            logprobs.append(float(scores[token]))
            text = self.tokenizer.decode(sampled)
            stopped = any(stop in text for stop in body.get("stop", []))
            ends = [self.tokenizer.eos_token_id, *body.get("stop_token_ids", [])]
            if token in ends or stopped:
                finish = "stop"
                break
        return {
            "token_ids": sampled,
            "finish_reason": finish,
            "logprobs": {"token_logprobs": logprobs},
            "prompt_logprobs": self.prompt_logprobs(body),
        }

    def logits(self, ids):
        if self.quick:
            return torch.zeros(len(self.tokenizer), dtype=torch.float64)
        with self.lock:
            return self.model(input_ids=torch.tensor([ids])).logits[0, -1].double()

    def prompt_logprobs(self, body):
        if "prompt_logprobs" not in body:
            return None
        ids = torch.tensor([body["prompt"]])
        with self.lock:
            scores = self.model(input_ids=ids).logits[0, :-1].log_softmax(-1)
        pairs = zip(body["prompt"][1:], scores, strict=True)
        return [None, *({str(t): {"logprob": float(row[t])}} for t, row in pairs)]

    def load_folder(self, folder):
        self.published.append(folder)
        if not self.stale:
            [file] = Path(folder).glob("*.safetensors")
            with self.lock:
                self.model.load_state_dict(load_file(file), strict=False)

    def load_adapters(self, body):
        """As vLLM, which loads a name only once."""
        if self.adapters is not None:
            return 400
        self.adapters = body["lora_name"]
        self.published.append(body["lora_path"])
        adapted = PeftModel.from_pretrained(copy.deepcopy(self.base), body["lora_path"])
        with self.lock:
            self.model = adapted.merge_and_unload()
        return 200

    def unload_adapters(self, body):
        assert body["lora_name"] == self.adapters
        self.adapters = None
        return 200


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def handle(self):
        with contextlib.suppress(ConnectionError):  # cut by `die`
            super().handle()

    def do_GET(self):
        names = ["student", *([self.server.adapters] if self.server.adapters else [])]
        self._send(200, json.dumps({"data": [{"id": name} for name in names]}).encode())

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])) or b"{}")
        if self.server.dead:
            self.close_connection = True
        elif self.path == "/collective_rpc":
            getattr(self.server, body["method"])(*body["args"])
            self._send(200, b"")
        elif self.path == "/reset_prefix_cache":
            self.server.resets += 1
            self._send(200, json.dumps({"success": True}).encode())
        elif self.path == "/v1/load_lora_adapter":
            self._send(self.server.load_adapters(body), b"Success")
        elif self.path == "/v1/unload_lora_adapter":
            self._send(self.server.unload_adapters(body), b"Success")
        elif self.path == "/tokenize":
            ids = self.server.tokenizer.encode(body["prompt"], add_special_tokens=False)
            self._send(200, json.dumps({"tokens": ids}).encode())
        else:
            self._completion(body)

    def _completion(self, body):
        server, fault = self.server, None
        if "prompt_logprobs" not in body:
            with server.lock:
                number = len(server.bodies)
                server.bodies.append(body)
                fault = server.plan(number)
                server.faults += [fault] if fault else []
        else:
            with server.lock:
                fault = server.prompt_plan(len(server.prompts))
                server.prompts.append(body["prompt"])
        if fault == "die":
            threading.Thread(target=server.die).start()
            self.close_connection = True
        elif fault == "cut":
            self.close_connection = True
        elif fault == "hang":
            server.over.wait(60)
            self.close_connection = True
        elif fault:
            self._send(int(fault), b"no")
        else:
            choice = server.complete(body)
            if server.dead:
                self.close_connection = True
            else:
                assert not any(map(math.isnan, choice["logprobs"]["token_logprobs"]))
                self._send(200, json.dumps({"choices": [choice]}).encode())

    def _send(self, status, data):
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)
