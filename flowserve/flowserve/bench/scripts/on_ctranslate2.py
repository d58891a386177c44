"""CTranslate2's Generator over one static batch; a shared prefix by `static_prompt`."""

import json
import time
from pathlib import Path

from measuring import NUM_CORES, arguments, common_prefix, quiet_stdout, run


def load():
    import ctranslate2

    precision = "float32" if given.precision == "fp32" else given.precision
    generator = ctranslate2.Generator(given.model, device="cpu", compute_type=precision, intra_threads=NUM_CORES)
    words = json.loads(Path(given.model, "vocabulary.json").read_text())

    def generate(prompts, num_out):
        times = [[] for _ in prompts]

        def arrived(step):
            times[step.batch_id].append(time.perf_counter())
            return False

        shared = common_prefix(prompts)
        static = {"static_prompt": [words[i] for i in prompts[0][:shared]], "cache_static_prompt": True}
        generator.generate_batch(
            [[words[i] for i in prompt[shared:]] for prompt in prompts],
            max_length=num_out,
            min_length=num_out,
            beam_size=1,
            sampling_topk=1,
            include_prompt_in_result=False,
            end_token=[],
            callback=arrived,
            max_batch_size=0,
            **(static if shared else {}),
        )
        return [each[-num_out:] for each in times]

    return generate, lambda prefix: generate([[*prefix, 9], [*prefix, 10]], 1)


if __name__ == "__main__":
    quiet_stdout()
    given = arguments()
    run(given, load)
