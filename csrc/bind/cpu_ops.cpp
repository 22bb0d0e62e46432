// Kernels on raw pointers. Shapes are checked by the callers in nano/engine/ops.
#include <pybind11/stl.h>

#include <array>
#include <optional>
#include <tuple>

#include "bind/bind.h"
#include "cpu/activation.h"
#include "cpu/attention.h"
#include "cpu/norm.h"
#include "cpu/rope.h"
#include "cpu/routing.h"
#include "cpu/sampling.h"

namespace nano {
namespace {

using Address = std::uintptr_t;
using Int = std::int64_t;

template <class T>
T* at(Address address) {
  return reinterpret_cast<T*>(address);
}

void rms_norm(cpu::Context& context, Address x, Address weight, Address out, Int rows, Int hidden, float eps, int dtype,
              Address index) {
  py::gil_scoped_release nogil;
  cpu::rms_norm(context, at<float>(x), at<float>(weight), at<void>(out), rows, hidden, eps,
                static_cast<cpu::DType>(dtype), at<std::int32_t>(index));
}

void silu_mul(cpu::Context& context, Address gate_up, Address out, Int rows, Int intermediate, int dtype) {
  py::gil_scoped_release nogil;
  cpu::silu_mul(context, at<float>(gate_up), at<void>(out), rows, intermediate, static_cast<cpu::DType>(dtype));
}

void rope_write(cpu::Context& context, Address qkv, Address q_out, Address q_norm, Address k_norm, float eps,
                Address cos_sin, Address positions, Address slots, Address kv, Int tokens, Int heads, Int kv_heads,
                Int head_dim, Int block_size, Int block_stride, Int kv_stride, Int head_stride, int dtype) {
  py::gil_scoped_release nogil;
  cpu::rope_write(context,
                  {.qkv = at<float>(qkv),
                   .q_out = at<void>(q_out),
                   .q_norm = at<float>(q_norm),
                   .k_norm = at<float>(k_norm),
                   .eps = eps,
                   .cos_sin = at<float>(cos_sin),
                   .positions = at<std::int32_t>(positions),
                   .slots = at<std::int64_t>(slots),
                   .kv = at<void>(kv),
                   .tokens = tokens,
                   .heads = heads,
                   .kv_heads = kv_heads,
                   .head_dim = head_dim,
                   .block_size = block_size,
                   .block_stride = block_stride,
                   .kv_stride = kv_stride,
                   .head_stride = head_stride},
                  static_cast<cpu::DType>(dtype));
}

void attention(cpu::Context& context, Address q, Address out, Address kv, Address cu_query, Address context_lens,
               Address block_tables, Int seqs, Int table_stride, Int heads, Int kv_heads, Int head_dim, Int block_size,
               Int block_stride, Int kv_stride, Int head_stride, float scale, int dtype) {
  py::gil_scoped_release nogil;
  cpu::attention(context,
                 {.q = at<void>(q),
                  .out = at<void>(out),
                  .kv = at<void>(kv),
                  .cu_query = at<std::int32_t>(cu_query),
                  .context_lens = at<std::int32_t>(context_lens),
                  .block_tables = at<std::int32_t>(block_tables),
                  .seqs = seqs,
                  .table_stride = table_stride,
                  .heads = heads,
                  .kv_heads = kv_heads,
                  .head_dim = head_dim,
                  .block_size = block_size,
                  .block_stride = block_stride,
                  .kv_stride = kv_stride,
                  .head_stride = head_stride,
                  .scale = scale},
                 static_cast<cpu::DType>(dtype));
}

void route(cpu::Context& context, Address logits, Int rows, Int experts, Int top_k, bool normalize, Address ids,
           Address weights) {
  py::gil_scoped_release nogil;
  cpu::route(context, at<float>(logits), rows, experts, top_k, normalize, at<std::int32_t>(ids), at<float>(weights));
}

// Addresses of arrays by field, in the order of the struct's.
using Penalties = std::array<Address, 6>;
using LogitBias = std::array<Address, 3>;
using Logprobs = std::tuple<Address, Int, Address, Address, Address>;

void sample(cpu::Context& context, Address logits, Int rows, Int vocab, Address temperature, Address top_p,
            Address top_k, Address seeds, Address positions, Address out, Address min_p,
            const std::optional<Penalties>& penalties, const std::optional<LogitBias>& bias,
            const std::optional<Logprobs>& logprobs) {
  py::gil_scoped_release nogil;
  cpu::Sampling sampling = {.logits = at<float>(logits),
                            .rows = rows,
                            .vocab = vocab,
                            .temperature = at<float>(temperature),
                            .top_p = at<float>(top_p),
                            .top_k = at<std::int32_t>(top_k),
                            .seeds = at<std::uint64_t>(seeds),
                            .positions = at<std::int32_t>(positions),
                            .out = at<std::int32_t>(out),
                            .min_p = at<float>(min_p)};
  if (penalties) {
    const auto& [start, tokens, prompt_lens, repetition, presence, frequency] = *penalties;
    sampling.penalties = {at<Int>(start),        at<std::int32_t>(tokens), at<std::int32_t>(prompt_lens),
                          at<float>(repetition), at<float>(presence),      at<float>(frequency)};
  }
  if (bias) {
    const auto& [start, ids, values] = *bias;
    sampling.bias = {at<Int>(start), at<std::int32_t>(ids), at<float>(values)};
  }
  if (logprobs) {
    const auto& [wanted, width, token, ids, values] = *logprobs;
    sampling.logprobs = {at<std::int32_t>(wanted), width, at<float>(token), at<std::int32_t>(ids), at<float>(values)};
  }
  cpu::sample(context, sampling);
}

}  // namespace

void bind_cpu_ops(py::module_ m) {
  using py::arg;
  m.def("rms_norm", &rms_norm, arg("context"), arg("x"), arg("weight"), arg("out"), arg("rows"), arg("hidden"),
        arg("eps"), arg("dtype"), arg("index") = 0);
  m.def("silu_mul", &silu_mul, arg("context"), arg("gate_up"), arg("out"), arg("rows"), arg("intermediate"),
        arg("dtype"));
  m.def("rope_write", &rope_write, arg("context"), arg("qkv"), arg("q_out"), arg("q_norm"), arg("k_norm"), arg("eps"),
        arg("cos_sin"), arg("positions"), arg("slots"), arg("kv"), arg("tokens"), arg("heads"), arg("kv_heads"),
        arg("head_dim"), arg("block_size"), arg("block_stride"), arg("kv_stride"), arg("head_stride"), arg("dtype"));
  m.def("attention", &attention, arg("context"), arg("q"), arg("out"), arg("kv"), arg("cu_query"), arg("context_lens"),
        arg("block_tables"), arg("seqs"), arg("table_stride"), arg("heads"), arg("kv_heads"), arg("head_dim"),
        arg("block_size"), arg("block_stride"), arg("kv_stride"), arg("head_stride"), arg("scale"), arg("dtype"));
  m.def("route", &route, arg("context"), arg("logits"), arg("rows"), arg("experts"), arg("top_k"), arg("normalize"),
        arg("ids"), arg("weights"));
  m.def("sample", &sample, arg("context"), arg("logits"), arg("rows"), arg("vocab"), arg("temperature"), arg("top_p"),
        arg("top_k"), arg("seeds"), arg("positions"), arg("out"), arg("min_p") = 0, arg("penalties") = py::none(),
        arg("bias") = py::none(), arg("logprobs") = py::none());
}

}  // namespace nano
