"""vLLM's engine for CPUs in this process, stepped by hand; prefix caching on."""

import itertools
import json
import os
import time

from measuring import arguments, quiet_stdout, run

CACHE_BYTES = 2**31
FRESH_TOKENS = 256
BLOCK_TOKENS, SPARE_BLOCKS = 128, 3
"""Of vLLM on CPUs. One block it keeps for itself, so that a cache of no more than the context is too small for it."""
os.environ |= {
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_CPU_OMP_THREADS_BIND": ",".join(map(str, sorted(os.sched_getaffinity(0)))),
    "VLLM_CPU_NUM_OF_RESERVED_CPU": "0",
    "VLLM_TARGET_DEVICE": "cpu",
    "VLLM_LOGGING_LEVEL": "ERROR",
    "VLLM_NO_USAGE_STATS": "1",
}
ids = itertools.count()


def fresh_cache_bytes(folder):
    """Little more than one context takes in float32: what is reserved counts as memory of the fresh process."""
    with open(os.path.join(folder, "config.json")) as file:
        config = json.load(file)
    heads = config.get("num_key_value_heads", config["num_attention_heads"])
    head_dim = config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"]
    token_bytes = config["num_hidden_layers"] * 2 * heads * head_dim * 4
    return token_bytes * (FRESH_TOKENS + SPARE_BLOCKS * BLOCK_TOKENS)


def load():
    from vllm import LLM, SamplingParams, TokensPrompt

    engine = LLM(
        given.model,
        dtype="float32",
        max_model_len=2304 if given.works else FRESH_TOKENS,
        max_num_seqs=16,
        max_num_batched_tokens=4096,
        kv_cache_memory_bytes=CACHE_BYTES if given.works else fresh_cache_bytes(given.model),
        enable_prefix_caching=True,
        enforce_eager=True,  # compiled it starts a minute later
        skip_tokenizer_init=True,
        disable_log_stats=True,
        seed=0,
    ).llm_engine

    def generate(prompts, num_out):
        params = SamplingParams(temperature=0, max_tokens=num_out, ignore_eos=True, detokenize=False)
        times = {f"bench {next(ids)}": [] for _ in prompts}
        for request_id, prompt in zip(times, prompts, strict=True):
            engine.add_request(request_id, TokensPrompt(prompt_token_ids=prompt), params)
        while engine.has_unfinished_requests():
            for output in engine.step():
                arrived = times[output.request_id]
                arrived += [time.perf_counter()] * (len(output.outputs[0].token_ids) - len(arrived))
        return list(times.values())

    return generate, lambda prefix: generate([[*prefix, 9]], 1)


if __name__ == "__main__":
    quiet_stdout()
    given = arguments()
    run(given, load)
