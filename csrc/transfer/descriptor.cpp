#include "transfer/descriptor.h"

#include "base/error.h"
#include "transfer/wire.h"

namespace nano::transfer {

std::string encode(const Descriptor& d) {
  BodyWriter out;
  out.put(kMagic).put(kProtocolVersion).text(d.name).text(d.host).put(d.port).text(d.host_id).text(d.socket);
  return out.bytes();
}

Descriptor decode_descriptor(std::string_view bytes) {
  BodyReader in(bytes);
  NANO_CHECK(in.get<std::uint32_t>() == kMagic && in.ok(), Code::kInvalidInput, "Endpoint.connect: not a descriptor (",
             bytes.size(), " bytes)");
  const auto version = in.get<std::uint32_t>();
  NANO_CHECK(version == kProtocolVersion, Code::kRefused, "Endpoint.connect: the descriptor has protocol version ",
             version, ", expected ", kProtocolVersion);
  Descriptor d;
  d.name = in.text();
  d.host = in.text();
  d.port = in.get<int>();
  d.host_id = in.text();
  d.socket = in.text();
  NANO_CHECK(in.ok() && !d.name.empty(), Code::kInvalidInput, "Endpoint.connect: the descriptor is cut short");
  return d;
}

}  // namespace nano::transfer
