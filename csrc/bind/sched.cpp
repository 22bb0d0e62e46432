// nano._core.sched. The GIL stays: a step takes microseconds, and it keeps the one owner thread honest.
#include <pybind11/stl.h>

#include <memory>
#include <string>

#include "bind/bind.h"
#include "bind/int32_span.h"
#include "sched/scheduler.h"

namespace nano {
namespace {

// A view of the owner's memory, which the view keeps alive.
template <class T>
py::array view(const py::object& owner, const T* data, py::array::ShapeContainer shape) {
  return py::array_t<T>(std::move(shape), data, owner);
}

// A read-only property: the first `Owner::*size` values of an array of Owner.
template <class Owner, class T>
void array_property(py::class_<Owner>& type, const char* name, std::vector<T> Owner::* array,
                    std::int32_t Owner::* size) {
  type.def_property_readonly(name, [array, size](const py::object& self) {
    const Owner& owner = self.cast<const Owner&>();
    return view(self, (owner.*array).data(), {owner.*size});
  });
}

// The same of an array that grows, as a copy: a view could outlive its memory.
template <class T>
void growing_property(py::class_<Batch>& type, const char* name, std::vector<T> Batch::* array) {
  type.def_property_readonly(name, [array](const Batch& batch) {
    return py::array_t<T>(static_cast<py::ssize_t>((batch.*array).size()), (batch.*array).data());
  });
}

// One keyword's value; false when there is no such keyword.
bool parse_option(Options& options, const std::string& key, const py::handle& value) {
  Sampling& sampling = options.sampling;
  if (key == "temperature") {
    sampling.temperature = value.cast<float>();
  } else if (key == "top_p") {
    sampling.top_p = value.cast<float>();
  } else if (key == "top_k") {
    sampling.top_k = value.cast<std::int32_t>();
  } else if (key == "min_p") {
    sampling.min_p = value.cast<float>();
  } else if (key == "repetition_penalty") {
    sampling.repetition_penalty = value.cast<float>();
  } else if (key == "presence_penalty") {
    sampling.presence_penalty = value.cast<float>();
  } else if (key == "frequency_penalty") {
    sampling.frequency_penalty = value.cast<float>();
  } else if (key == "logit_bias") {
    for (const auto& [id, bias] : value.cast<py::dict>()) {
      options.bias_ids.push_back(id.cast<std::int32_t>());
      options.bias_values.push_back(bias.cast<float>());
    }
  } else if (key == "logprobs") {
    sampling.logprobs = value.cast<std::int32_t>();
  } else if (key == "seed") {
    sampling.seed = value.cast<std::uint64_t>();
  } else if (key == "min_tokens") {
    options.min_tokens = value.cast<std::int32_t>();
  } else if (key == "stop_ids") {
    for (const py::handle stop : value) options.stop_ids.push_back(stop.cast<std::int32_t>());
  } else if (key == "priority") {
    options.priority = value.cast<std::int32_t>();
  } else if (key == "gated") {
    options.gated = value.cast<bool>();
  } else if (key == "hold") {
    options.hold = value.cast<bool>();
  } else if (key == "salt") {
    options.salt = value.cast<std::uint64_t>();
  } else {
    return false;
  }
  return true;
}

Options parse_options(const char* operation, const py::kwargs& keywords) {
  Options options;
  for (const auto& [name, value] : keywords) {
    const auto key = name.cast<std::string>();
    bool known = false;
    try {
      known = parse_option(options, key, value);
    } catch (const py::cast_error&) {
      throw py::type_error(cat("Scheduler.", operation, ": ", key,
                               ": wrong type or out of range: ", py::repr(value).cast<std::string>()));
    }
    if (!known) throw py::type_error(cat("Scheduler.", operation, ": unexpected keyword ", key));
  }
  return options;
}

void add_request(Scheduler& scheduler, std::uint64_t id, const Int32Array& tokens, std::int64_t max_tokens,
                 const py::kwargs& keywords) {
  scheduler.add(id, as_span("Scheduler.add: tokens", tokens), max_tokens, parse_options("add", keywords));
}

py::object reserve(Scheduler& scheduler, std::uint64_t id, const Int32Array& tokens, std::int64_t max_tokens,
                   const py::kwargs& keywords) {
  const auto reservation = scheduler.reserve(id, as_span("Scheduler.reserve: tokens", tokens), max_tokens,
                                             parse_options("reserve", keywords));
  if (!reservation) return py::none();
  return py::make_tuple(reservation->first_block, as_array(reservation->blocks));
}

py::dict stats(const Scheduler& scheduler) {
  const Stats now = scheduler.stats();
  py::dict out;
  out["waiting"] = now.waiting;
  out["gated"] = now.gated;
  out["running"] = now.running;
  out["reserved"] = now.reserved;
  out["held"] = now.held;
  out["free_blocks"] = now.free_blocks;
  out["preemptions"] = now.preemptions;
  out["prefix_hit_tokens"] = now.prefix_hit_tokens;
  out["split_chunks"] = now.split_chunks;
  out["steps"] = now.steps;
  return out;
}

void bind_batch(py::module_ m) {
  py::class_<Batch> type(m, "Batch", "One step's work: views of preallocated arrays.");
  type.def_readonly("step", &Batch::step)
      .def_readonly("num_seqs", &Batch::num_seqs)
      .def_readonly("num_tokens", &Batch::num_tokens)
      .def_readonly("num_samples", &Batch::num_samples);
  array_property(type, "ids", &Batch::ids, &Batch::num_seqs);
  array_property(type, "token_ids", &Batch::token_ids, &Batch::num_tokens);
  array_property(type, "token_sources", &Batch::token_sources, &Batch::num_tokens);
  array_property(type, "positions", &Batch::positions, &Batch::num_tokens);
  array_property(type, "slots", &Batch::slots, &Batch::num_tokens);
  array_property(type, "context_lens", &Batch::context_lens, &Batch::num_seqs);
  array_property(type, "sample_rows", &Batch::sample_rows, &Batch::num_samples);
  array_property(type, "sample_seqs", &Batch::sample_seqs, &Batch::num_samples);
  array_property(type, "sample_positions", &Batch::sample_positions, &Batch::num_samples);
  array_property(type, "temperature", &Batch::temperature, &Batch::num_samples);
  array_property(type, "top_p", &Batch::top_p, &Batch::num_samples);
  array_property(type, "top_k", &Batch::top_k, &Batch::num_samples);
  array_property(type, "min_p", &Batch::min_p, &Batch::num_samples);
  array_property(type, "repetition_penalty", &Batch::repetition_penalty, &Batch::num_samples);
  array_property(type, "presence_penalty", &Batch::presence_penalty, &Batch::num_samples);
  array_property(type, "frequency_penalty", &Batch::frequency_penalty, &Batch::num_samples);
  array_property(type, "num_logprobs", &Batch::num_logprobs, &Batch::num_samples);
  array_property(type, "seeds", &Batch::seeds, &Batch::num_samples);
  type.def_property_readonly("cu_query", [](const py::object& self) {
    const auto& batch = self.cast<const Batch&>();
    return view(self, batch.cu_query.data(), {batch.num_seqs + 1});
  });
  type.def_property_readonly("block_tables", [](const py::object& self) {
    const auto& batch = self.cast<const Batch&>();
    return view(self, batch.block_tables.get(), {batch.num_seqs, batch.width});
  });
  type.def_property_readonly("bias_start", [](const py::object& self) {
    const auto& batch = self.cast<const Batch&>();
    return view(self, batch.bias_start.data(), {batch.num_samples + 1});
  });
  growing_property(type, "bias_ids", &Batch::bias_ids);
  growing_property(type, "bias_values", &Batch::bias_values);
  growing_property(type, "penalized", &Batch::penalized);
  growing_property(type, "preempted", &Batch::preempted);
  type.def(
      "history",
      [](const Batch& batch, std::int32_t row) {
        const Request& request = batch.sampled(row);
        const std::span<const std::int32_t> tokens(request.tokens);
        const auto prompt = static_cast<std::size_t>(request.prompt);
        return py::make_tuple(as_array(tokens.first(prompt)), as_array(tokens.subspan(prompt)));
      },
      py::arg("row"));
}

void bind_committed(py::module_ m) {
  py::class_<Committed> type(m, "Committed", "What a commit changed.");
  array_property(type, "ids", &Committed::ids, &Committed::count);
  array_property(type, "indices", &Committed::indices, &Committed::count);
  array_property(type, "tokens", &Committed::tokens, &Committed::count);
  array_property(type, "finish", &Committed::finish, &Committed::count);
  array_property(type, "cached", &Committed::cached, &Committed::count);
}

}  // namespace

void bind_sched(py::module_ m) {
  bind_batch(m);
  bind_committed(m);
  py::class_<Scheduler>(m, "Scheduler", "Continuous batching under one token budget.")
      .def(py::init([](std::shared_ptr<BlockPool> pool, std::int32_t max_num_batched_tokens, std::int32_t max_num_seqs,
                       std::int32_t max_model_len, double watermark, double max_reserved, std::int32_t depth) {
             return std::make_unique<Scheduler>(std::move(pool), Limits{max_num_batched_tokens, max_num_seqs,
                                                                        max_model_len, watermark, max_reserved, depth});
           }),
           py::arg("pool").none(false), py::arg("max_num_batched_tokens"), py::arg("max_num_seqs"),
           py::arg("max_model_len"), py::arg("watermark") = 0.01, py::arg("max_reserved") = 0.2, py::arg("depth") = 1)
      .def("add", &add_request, py::arg("id"), py::arg("tokens"), py::arg("max_tokens"))
      .def("open", &Scheduler::open, py::arg("id"))
      .def("reserve", &reserve, py::arg("id"), py::arg("tokens"), py::arg("max_tokens"))
      .def(
          "activate",
          [](Scheduler& scheduler, std::uint64_t id, std::int32_t first_token) {
            return static_cast<int>(scheduler.activate(id, first_token));
          },
          py::arg("id"), py::arg("first_token"))
      .def("recompute", &Scheduler::recompute, py::arg("id"))
      .def("abort", &Scheduler::abort, py::arg("id"))
      .def("release", &Scheduler::release, py::arg("id"))
      .def("schedule", &Scheduler::schedule, py::return_value_policy::reference_internal)
      .def(
          "commit",
          [](Scheduler& scheduler, const Int32Array& tokens) -> const Committed& {
            return scheduler.commit(as_span("Scheduler.commit: tokens", tokens));
          },
          py::arg("tokens"), py::return_value_policy::reference_internal)
      .def_property_readonly("in_flight", &Scheduler::in_flight)
      .def("has_work", &Scheduler::has_work)
      .def(
          "next_gated",
          [](const Scheduler& scheduler, std::size_t count) {
            const auto ids = scheduler.next_gated(count);
            return py::array_t<std::uint64_t>(static_cast<py::ssize_t>(ids.size()), ids.data());
          },
          py::arg("count"))
      .def(
          "block_table",
          [](const Scheduler& scheduler, std::uint64_t id) { return as_array(scheduler.block_table(id)); },
          py::arg("id"))
      .def("num_computed", &Scheduler::num_computed, py::arg("id"))
      .def("stats", &stats)
      .def("check", &Scheduler::check);
}

}  // namespace nano
