"""ONNX Runtime GenAI's Generator over one static batch; it shares nothing between sequences."""

import time

from measuring import arguments, quiet_stdout, run


def load():
    import numpy as np
    import onnxruntime_genai

    model = onnxruntime_genai.Model(given.model)

    def generate(prompts, num_out):
        params = onnxruntime_genai.GeneratorParams(model)
        length = len(prompts[0]) + num_out
        params.set_search_options(max_length=length, min_length=length, do_sample=False, batch_size=len(prompts))
        generator = onnxruntime_genai.Generator(model, params)
        generator.append_tokens(np.array(prompts, dtype=np.int32))
        arrived = []
        for _ in range(num_out):
            generator.generate_next_token()
            arrived.append(time.perf_counter())
        return [arrived] * len(prompts)

    return generate, None


if __name__ == "__main__":
    quiet_stdout()
    given = arguments()
    run(given, load)
