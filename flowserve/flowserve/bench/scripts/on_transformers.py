"""transformers: `generate` over one static batch. int8: torch's dynamic quantisation, the head too."""

import time

from measuring import NUM_CORES, arguments, quiet_stdout, run


def load():
    import torch
    import transformers

    torch.set_num_threads(NUM_CORES)
    model = transformers.AutoModelForCausalLM.from_pretrained(given.model, dtype=torch.float32).eval()
    if given.precision == "int8":
        model.lm_head.weight = torch.nn.Parameter(model.lm_head.weight.clone(), requires_grad=False)
        model = torch.ao.quantization.quantize_dynamic(model, {torch.nn.Linear}, dtype=torch.qint8)
    model.generation_config.eos_token_id, model.generation_config.pad_token_id = None, 0

    class Stamp(transformers.LogitsProcessor):
        def __init__(self):
            self.times = []

        def __call__(self, input_ids, scores):
            self.times.append(time.perf_counter())  # the greedy choice among them follows
            return scores

    @torch.inference_mode()
    def generate(prompts, num_out):
        ids, stamp = torch.tensor(prompts), Stamp()
        model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=num_out,
            min_new_tokens=num_out,
            do_sample=False,
            logits_processor=[stamp],
        )
        stamp.times[-1] = time.perf_counter()
        return [stamp.times] * len(prompts)

    return generate, None


if __name__ == "__main__":
    quiet_stdout()
    given = arguments()
    run(given, load)
