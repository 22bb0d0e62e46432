// nano._core.kv. Calls take less time than releasing the GIL would, and the GIL keeps their one owner thread honest.
#include <memory>
#include <vector>

#include "bind/bind.h"
#include "bind/int32_span.h"
#include "kv/block_pool.h"

namespace nano {
namespace {

Int32Array allocate(BlockPool& pool, std::int64_t count) {
  NANO_CHECK(count >= 0, Code::kInvalidInput, "BlockPool.allocate: count must be >= 0, got ", count);
  NANO_CHECK(count <= pool.num_free(), Code::kOutOfMemory, "BlockPool.allocate: asked for ", count, " blocks, ",
             pool.num_free(), " of ", pool.num_blocks(), " are free");
  Int32Array blocks(count);
  pool.allocate({blocks.mutable_data(), static_cast<std::size_t>(count)});
  return blocks;
}

Int32Array acquire(BlockPool& pool, const Int32Array& tokens, std::uint64_t salt) {
  const auto span = as_span("BlockPool.acquire: tokens", tokens);
  std::vector<std::int32_t> blocks(span.size() / static_cast<std::size_t>(pool.block_size()));
  blocks.resize(static_cast<std::size_t>(pool.match(span, salt, blocks.data())));
  pool.hold(blocks);
  return as_array(blocks);
}

void insert(BlockPool& pool, const Int32Array& tokens, const Int32Array& blocks, std::uint64_t salt) {
  const auto text = as_span("BlockPool.insert: tokens", tokens);
  const auto ids = as_span("BlockPool.insert: blocks", blocks);
  const auto block_size = static_cast<std::size_t>(pool.block_size());
  const std::size_t full = text.size() / block_size;
  NANO_CHECK(ids.size() >= full, Code::kInvalidInput, "BlockPool.insert: ", text.size(), " tokens fill ", full,
             " blocks, got ", ids.size());
  PrefixNode node = pool.root(salt);
  for (std::size_t i = 0; i < full; ++i) node = pool.insert(node, text.data() + i * block_size, ids[i]);
}

}  // namespace

void bind_kv(py::module_ m) {
  py::class_<BlockPool, std::shared_ptr<BlockPool>>(m, "BlockPool", "KV blocks of one pool and the prefix index.")
      .def(py::init<std::int32_t, std::int32_t, bool, int>(), py::arg("num_blocks"), py::arg("block_size"),
           py::arg("prefix_caching") = true, py::arg("hash_bits") = 64)
      .def_property_readonly("num_blocks", &BlockPool::num_blocks)
      .def_property_readonly("block_size", &BlockPool::block_size)
      .def_property_readonly("num_free", &BlockPool::num_free)
      .def_property_readonly("num_cached", &BlockPool::num_cached)
      .def("allocate", &allocate, py::arg("count"))
      .def(
          "release",
          [](BlockPool& pool, const Int32Array& blocks) { pool.release(as_span("BlockPool.release: blocks", blocks)); },
          py::arg("blocks"))
      .def(
          "match",
          [](const BlockPool& pool, const Int32Array& tokens, std::uint64_t salt) {
            return pool.match(as_span("BlockPool.match: tokens", tokens), salt);
          },
          py::arg("tokens"), py::arg("salt") = 0)
      .def("acquire", &acquire, py::arg("tokens"), py::arg("salt") = 0)
      .def("insert", &insert, py::arg("tokens"), py::arg("blocks"), py::arg("salt") = 0)
      .def("clear", &BlockPool::clear)
      .def("check", &BlockPool::check);
}

}  // namespace nano
