#include "transfer/greeting.h"

#include "transfer/wire.h"

namespace nano::transfer {
namespace {

constexpr std::size_t kNonce = 32;

template <class Message>
std::string encode_as(const Message& message) {
  BodyWriter out;
  out.put(kProtocolVersion).text(message.nonce).text(message.name);
  out.put(static_cast<std::uint8_t>(message.secret ? 1 : 0)).put(message.streams);
  out.put(static_cast<std::uint32_t>(message.offers.size()));
  for (const Offer& offer : message.offers) out.text(offer.name).text(offer.body);
  return out.bytes();
}

template <class Message>
std::optional<Message> decode_as(std::string_view body, std::uint32_t& version) {
  BodyReader in(body);
  version = in.get<std::uint32_t>();
  if (!in.ok() || version != kProtocolVersion) return std::nullopt;
  Message out;
  out.nonce = in.text();
  out.name = in.text();
  out.secret = in.get<std::uint8_t>() != 0;
  out.streams = in.get<std::uint8_t>();
  const auto offers = in.get<std::uint32_t>();
  if (offers > kMaxOffers) return std::nullopt;
  for (std::uint32_t i = 0; i < offers; ++i) {
    Offer offer;
    offer.name = in.text();
    offer.body = in.text();
    if (offer.body.size() > kMaxOffer) return std::nullopt;
    out.offers.push_back(std::move(offer));
  }
  if (!in.ok() || out.nonce.size() != kNonce || out.name.empty() || out.name.size() > 255 || out.streams == 0) {
    return std::nullopt;
  }
  return out;
}

}  // namespace

std::string encode(const Hello& hello) {
  return encode_as(hello);
}
std::string encode(const Challenge& challenge) {
  return encode_as(challenge);
}

std::optional<Hello> decode_hello(std::string_view body, std::uint32_t& version) {
  return decode_as<Hello>(body, version);
}

std::optional<Challenge> decode_challenge(std::string_view body, std::uint32_t& version) {
  return decode_as<Challenge>(body, version);
}

Digest prove(Role role, const std::string& secret, const Hello& hello, const Challenge& challenge) {
  BodyWriter transcript;
  transcript.text(role == Role::kConnector ? "nano connector" : "nano acceptor");
  transcript.text(encode(hello)).text(encode(challenge));
  return hmac_sha256(secret, transcript.bytes());
}

Digest prove_stream(std::uint32_t index, const std::string& secret, const Hello& hello, const Challenge& challenge) {
  BodyWriter transcript;
  transcript.text("nano stream").put(index).text(encode(hello)).text(encode(challenge));
  return hmac_sha256(secret, transcript.bytes());
}

}  // namespace nano::transfer
