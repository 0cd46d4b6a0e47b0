// The parts of a decoder layer that are not matrix products, for one new token of each row, in float32.
// posttrain/models/decoding_native.py calls these, posttrain/models/compiled.py compiles them where they run.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <vector>

namespace {

// exp(x) to about one unit in the last place: 2^n times a polynomial of the rest. Below -87 it is 0.
inline float exponential(float x) {
    const float n = std::rint(std::max(x, -87.0f) * 1.44269504f);
    const float r = (std::max(x, -87.0f) - n * 0.693359375f) + n * 2.12194440e-4f;
    float p = 1.9875691500e-4f;
    p = p * r + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    p = p * r * r + r + 1.0f;
    const int32_t bits = (static_cast<int32_t>(n) + 127) << 23;
    float scale;
    std::memcpy(&scale, &bits, sizeof scale);
    return x < -87.0f ? 0.0f : p * scale;
}

void normalise(const float* x, const float* weight, float eps, int64_t size, float* out) {
    float squares = 0.0f;
#pragma omp simd reduction(+ : squares)
    for (int64_t i = 0; i < size; ++i) squares += x[i] * x[i];
    const float scale = 1.0f / std::sqrt(squares / static_cast<float>(size) + eps);
    for (int64_t i = 0; i < size; ++i) out[i] = weight[i] * (x[i] * scale);
}

// A head turned by its position: x cos + (-x2, x1) sin, after its norm if it has one.
void turn(const float* x, const float* norm, float eps, const float* cos, const float* sin, int64_t dim, float* out) {
    float normed[1024];
    if (norm != nullptr) {
        normalise(x, norm, eps, dim, normed);
        x = normed;
    }
    const int64_t half = dim / 2;
    for (int64_t i = 0; i < half; ++i) out[i] = x[i] * cos[i] - x[i + half] * sin[i];
    for (int64_t i = half; i < dim; ++i) out[i] = x[i] * cos[i] + x[i - half] * sin[i];
}

template <int DIM>
inline float dot(const float* a, const float* b, int64_t dim) {
    const int64_t size = DIM ? DIM : dim;
    float sum = 0.0f;
#pragma omp simd reduction(+ : sum)
    for (int64_t i = 0; i < size; ++i) sum += a[i] * b[i];
    return sum;
}

template <int DIM>
inline void add_weighted(const float* values, const float* weights, int64_t count, int64_t dim, float* out) {
    if constexpr (DIM != 0) {
        float sum[DIM];  // stays in registers
        for (int i = 0; i < DIM; ++i) sum[i] = out[i];
        for (int64_t k = 0; k < count; ++k)
            for (int i = 0; i < DIM; ++i) sum[i] += weights[k] * values[k * DIM + i];
        for (int i = 0; i < DIM; ++i) out[i] = sum[i];
    } else {
        for (int64_t k = 0; k < count; ++k)
            for (int64_t i = 0; i < dim; ++i) out[i] += weights[k] * values[k * dim + i];
    }
}

struct Keys {  // one head's keys and values that a query sees in one place
    const float* keys;
    const float* values;
    int64_t count;
};

template <int DIM>
void attend_head(const float* query, const Keys (&seen)[2], int64_t dim, float* scores, float* out) {
    int64_t total = 0;
    for (const Keys& part : seen)
        for (int64_t k = 0; k < part.count; ++k) scores[total++] = dot<DIM>(query, part.keys + k * dim, dim);
    float highest = scores[0];
#pragma omp simd reduction(max : highest)
    for (int64_t k = 0; k < total; ++k) highest = std::max(highest, scores[k]);
    float sum = 0.0f;
#pragma omp simd reduction(+ : sum)
    for (int64_t k = 0; k < total; ++k) {
        scores[k] = exponential(scores[k] - highest);
        sum += scores[k];
    }
    std::fill(out, out + dim, 0.0f);
    const float* weights = scores;
    for (const Keys& part : seen) {
        add_weighted<DIM>(part.values, weights, part.count, dim, out);
        weights += part.count;
    }
    for (int64_t i = 0; i < dim; ++i) out[i] /= sum;
}

}  // namespace

extern "C" {

struct Attention {
    int64_t rows, heads, kv, dim, capacity, widest, window, threads;
    float scale, eps;
    const float* mixed;       // [rows, heads + 2 kv, dim] what the joined projection gave
    const float* query_norm;  // [dim] or none
    const float* key_norm;
    const float* cos;  // [rows, dim]
    const float* sin;
    float* keys;  // [rows, kv, capacity, dim] of each row's own tokens; the new one is written
    float* values;
    const int64_t* own;            // [rows] a row's own tokens, the new one counted
    const float* prompt_keys;      // [places, kv, widest, dim] or none
    const float* prompt_values;    //
    const int64_t* places;         // [rows]
    const int64_t* prompt_length;  // [rows]
    float* out;                    // [rows, heads, dim]
};

void posttrain_attend(const Attention* given) {
    const Attention a = *given;
    const int64_t repeats = a.heads / a.kv;
#pragma omp parallel num_threads(a.threads)
    {
        std::vector<float> scores(a.capacity + a.widest);
        std::vector<float> query(a.dim);
#pragma omp for schedule(static)
        for (int64_t item = 0; item < a.rows * a.kv; ++item) {
            const int64_t row = item / a.kv, head = item % a.kv;
            const float* mixed = a.mixed + row * (a.heads + 2 * a.kv) * a.dim;
            const float *cos = a.cos + row * a.dim, *sin = a.sin + row * a.dim;
            const int64_t own = a.own[row], before = a.prompt_keys ? a.prompt_length[row] : 0;
            float* keys = a.keys + item * a.capacity * a.dim;
            float* values = a.values + item * a.capacity * a.dim;
            turn(mixed + (a.heads + head) * a.dim, a.key_norm, a.eps, cos, sin, a.dim, keys + (own - 1) * a.dim);
            std::memcpy(values + (own - 1) * a.dim, mixed + (a.heads + a.kv + head) * a.dim, a.dim * sizeof(float));
            // the first token that is seen, counted from the prompt's
            const int64_t first = a.window > 0 ? std::max<int64_t>(0, before + own - a.window) : 0;
            const int64_t skipped = std::min(first, before), own_skipped = first - skipped;
            const int64_t place = before ? (a.places[row] * a.kv + head) * a.widest + skipped : 0;
            const Keys seen[2] = {
                {before ? a.prompt_keys + place * a.dim : nullptr, before ? a.prompt_values + place * a.dim : nullptr,
                 before - skipped},
                {keys + own_skipped * a.dim, values + own_skipped * a.dim, own - own_skipped},
            };
            for (int64_t repeat = 0; repeat < repeats; ++repeat) {
                const int64_t number = head * repeats + repeat;
                turn(mixed + number * a.dim, a.query_norm, a.eps, cos, sin, a.dim, query.data());
                for (float& x : query) x *= a.scale;
                float* out = a.out + (row * a.heads + number) * a.dim;
                switch (a.dim) {
                    case 32: attend_head<32>(query.data(), seen, 32, scores.data(), out); break;
                    case 64: attend_head<64>(query.data(), seen, 64, scores.data(), out); break;
                    case 128: attend_head<128>(query.data(), seen, 128, scores.data(), out); break;
                    default: attend_head<0>(query.data(), seen, a.dim, scores.data(), out);
                }
            }
        }
    }
}

// states += added, unless there is none; out = weight * states / rms(states)
void posttrain_add_norm(int64_t rows, int64_t size, float* states, const float* added, const float* weight, float eps,
                        float* out, int64_t threads) {
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int64_t row = 0; row < rows; ++row) {
        float* x = states + row * size;
        if (added != nullptr)
            for (int64_t i = 0; i < size; ++i) x[i] += added[row * size + i];
        normalise(x, weight, eps, size, out + row * size);
    }
}

// out = gate / (1 + exp(-gate)) * up, where a row of both [2 size] is gate and then up
void posttrain_gated(int64_t rows, int64_t size, const float* both, float* out, int64_t threads) {
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int64_t row = 0; row < rows; ++row) {
        const float *gate = both + row * 2 * size, *up = gate + size;
        for (int64_t i = 0; i < size; ++i)
            out[row * size + i] = gate[i] / (1.0f + exponential(-std::min(std::max(gate[i], -87.0f), 87.0f))) * up[i];
    }
}
}
