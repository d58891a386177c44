"""llama.cpp by llama-cpp-python's low-level API: one llama_decode for each step over all sequences.

A prefix that all prompts share is decoded once and llama_memory_seq_cp'd to the others, as llama.cpp's own parallel
example does with a system prompt; sequence NUM_SEQUENCES keeps the last prefix. Greedy choice by numpy, in the time.
"""

import ctypes
import time

import llama_cpp
import numpy as np
from measuring import NUM_CORES, arguments, common_prefix, quiet_stdout, run

NUM_SEQUENCES = 16
KEPT = NUM_SEQUENCES
STEP_TOKENS = 2048


def load():
    llama_cpp.llama_backend_init()
    llama_cpp.llama_log_set(say_nothing, ctypes.c_void_p(0))
    model = llama_cpp.llama_model_load_from_file(given.model.encode(), llama_cpp.llama_model_default_params())
    options = llama_cpp.llama_context_default_params()
    options.n_ctx = 16384 if given.works else 512
    options.n_batch, options.n_ubatch, options.n_seq_max = STEP_TOKENS, 512, NUM_SEQUENCES + 1
    options.n_threads = options.n_threads_batch = NUM_CORES
    options.kv_unified, options.no_perf = True, True
    context = Context(model, llama_cpp.llama_init_from_model(model, options))
    return context.generate, context.keep


@llama_cpp.llama_log_callback
def say_nothing(level, text, data):
    pass


class Context:
    def __init__(self, model, context):
        self.context = context
        self.vocab = llama_cpp.llama_vocab_n_tokens(llama_cpp.llama_model_get_vocab(model))
        self.batch = llama_cpp.llama_batch_init(STEP_TOKENS, 0, 1)
        self.memory = llama_cpp.llama_get_memory(context)
        self.kept = []

    def decode(self, rows):
        """rows: (token, position, sequence, whether its logits are wanted)."""
        batch = self.batch
        batch.n_tokens = len(rows)
        for i, (token, position, sequence, wants_logits) in enumerate(rows):
            batch.token[i], batch.pos[i], batch.logits[i] = token, position, wants_logits
            batch.n_seq_id[i], batch.seq_id[i][0] = 1, sequence
        if llama_cpp.llama_decode(self.context, batch):
            raise SystemExit("llama_decode failed")

    def best(self, row):
        logits = llama_cpp.llama_get_logits_ith(self.context, row)
        return int(np.ctypeslib.as_array(logits, (self.vocab,)).argmax())

    def keep(self, prefix):
        if prefix != self.kept:
            llama_cpp.llama_memory_seq_rm(self.memory, KEPT, -1, -1)
            self.decode([(token, i, KEPT, False) for i, token in enumerate(prefix)])
            self.kept = prefix

    def generate(self, prompts, num_out):
        for sequence in range(NUM_SEQUENCES):
            llama_cpp.llama_memory_seq_rm(self.memory, sequence, -1, -1)
        start = common_prefix(prompts)
        if start:
            self.keep(prompts[0][:start])
            for sequence in range(len(prompts)):
                llama_cpp.llama_memory_seq_cp(self.memory, KEPT, sequence, -1, -1)
        last, times = self.read_prompts(prompts, start)
        for step in range(num_out - 1):
            self.decode([(last[i], len(prompt) + step, i, True) for i, prompt in enumerate(prompts)])
            last = [self.best(row) for row in range(len(prompts))]
            for arrived in times:
                arrived.append(time.perf_counter())
        return times

    def read_prompts(self, prompts, start):
        """The first token of each, and when it came; as many prompts a step as fit in."""
        last, times, rows, ends = [0] * len(prompts), [[] for _ in prompts], [], []

        def flush():
            self.decode(rows)
            for row, sequence in ends:
                last[sequence] = self.best(row)
                times[sequence].append(time.perf_counter())
            rows.clear()
            ends.clear()

        for sequence, prompt in enumerate(prompts):
            if len(rows) + len(prompt) - start > STEP_TOKENS:
                flush()
            rows += [(prompt[i], i, sequence, i == len(prompt) - 1) for i in range(start, len(prompt))]
            ends.append((len(rows) - 1, sequence))
        flush()
        return last, times


if __name__ == "__main__":
    quiet_stdout()
    given = arguments()
    run(given, load)
