// What Python calls. Plain C: structures of decoder.h by pointer, no exceptions across the border.
#include "decoder.h"

using namespace fs;

extern "C" {

// What the other side must agree with: lanes, unit, group, sizes of the structures.
void fs_describe(int32_t* out) {
    const int32_t values[] = {LANES, UNIT, GROUP, sizeof(Matrix), sizeof(LayerWeights), sizeof(DecoderSpec),
                              sizeof(StepArrays), sizeof(CacheShape)};
    std::memcpy(out, values, sizeof values);
}

const char* fs_instructions() {
#if defined(FS_AMX)
    return amx::ENABLED ? "amx" : "avx512-vnni";
#elif defined(FS_VNNI)
    return "avx512-vnni";
#elif defined(FS_AVX512)
    return "avx512";
#elif defined(FS_AVX2)
    return "avx2";
#else
    return "generic";
#endif
}

int64_t fs_panel_bytes(int32_t kind, int32_t k) { return panel_bytes(kind, k); }

int64_t fs_block_bytes(const CacheShape* shape) { return shape->block_bytes(); }

// rows [count, k] become ceil(count / 16) panels at `panels`. Returns the first row with a NaN or infinity, or -1.
int64_t fs_pack(int32_t kind, const float* rows, int64_t count, int32_t k, uint8_t* panels) {
    for (int64_t row = 0; row < count; row += LANES) {
        int bad = pack_panel(kind, rows + row * k, int(std::min<int64_t>(LANES, count - row)), k, panels);
        if (bad >= 0) return row + bad;
        panels += panel_bytes(kind, k);
    }
    return -1;
}

void fs_unpack_row(const Matrix* m, int32_t index, float* out) { unpack_row(*m, index, out); }

// y [rows, n] = x [rows, k] times m, on this thread; for tests and measurements.
void fs_multiply(const Matrix* m, const float* x, int32_t rows, float* y) {
    const int64_t stride = prepared_words(m->kind, m->k);
    Lines<int32_t> units(stride * round_up(rows, MOST_TILE_ROWS));
    std::vector<float> scales(rows);
    if (is_prepared(m->kind))
        for (int r = 0; r < rows; r++)
            scales[r] = prepare_row(m->kind, x + int64_t(r) * m->k, m->k, units.data() + r * stride);
    multiply(*m, {x, m->k, units.data(), stride, scales.data()}, rows, 0, m->panels(), [&](int row, int panel, F16 v) {
        alignas(64) float lanes[LANES];
        v.store(lanes);
        std::memcpy(y + int64_t(row) * m->n + panel * LANES, lanes, sizeof(float) * std::min(LANES, m->n - panel * LANES));
    });
}

Decoder* fs_decoder_create(const DecoderSpec* spec) {
    try {
        return new Decoder(*spec);
    } catch (...) {  // memory or threads are short
        return nullptr;
    }
}

// So many parts of the weights are there (see Arrival); fewer than none: the others will not come. From any thread.
void fs_decoder_note_parts(Decoder* decoder, int32_t there) { decoder->note_parts(there); }

void fs_decoder_destroy(Decoder* decoder) { delete decoder; }

int32_t fs_decoder_step(Decoder* decoder, const StepArrays* arrays) {
    try {
        decoder->step(*arrays);
        return 0;
    } catch (...) {
        return -1;
    }
}
}
