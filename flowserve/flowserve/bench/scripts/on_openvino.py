"""OpenVINO GenAI's ContinuousBatchingPipeline (paged attention, prefix caching), stepped by hand."""

import itertools
import time

from measuring import NUM_CORES, arguments, quiet_stdout, run

ids = itertools.count()


def load():
    import numpy as np
    import openvino
    import openvino_genai

    scheduler = openvino_genai.SchedulerConfig()
    scheduler.cache_size, scheduler.max_num_seqs = 2, 16
    scheduler.max_num_batched_tokens, scheduler.dynamic_split_fuse = 4096, True
    scheduler.enable_prefix_caching = True
    properties = {"INFERENCE_NUM_THREADS": NUM_CORES, "PERFORMANCE_HINT": "LATENCY"}
    if given.precision == "fp32":
        properties |= {"INFERENCE_PRECISION_HINT": "f32", "KV_CACHE_PRECISION": "f32"}
    pipeline = openvino_genai.ContinuousBatchingPipeline(given.model, scheduler, "CPU", properties)

    def generate(prompts, num_out):
        config = openvino_genai.GenerationConfig()
        config.max_new_tokens = config.min_new_tokens = num_out
        config.ignore_eos, config.do_sample = True, False
        handles = [
            pipeline.add_request(next(ids), openvino.Tensor(np.array([prompt], dtype=np.int64)), config)
            for prompt in prompts
        ]
        times = [[] for _ in prompts]
        while pipeline.has_non_finished_requests():
            pipeline.step()
            now_s = time.perf_counter()
            for arrived, handle in zip(times, handles, strict=True):
                while handle.can_read():
                    for output in handle.read().values():
                        arrived += [now_s] * len(output.generated_ids)
        return [arrived[:num_out] for arrived in times]

    return generate, lambda prefix: generate([[*prefix, 9]], 1)


if __name__ == "__main__":
    quiet_stdout()
    given = arguments()
    run(given, load)
