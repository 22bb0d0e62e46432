// The handshake: who is there, which version they speak, and that they know the cluster's secret.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "transfer/sha256.h"

namespace nano::transfer {

// A transport that one side can use, as it describes itself.
struct Offer {
  std::string name;
  std::string body;
};

struct Hello {
  std::string name;
  std::string nonce;
  bool secret = false;  // the connector has one
  std::uint8_t streams = 1;
  std::vector<Offer> offers;
};

struct Challenge {
  std::string name;
  std::string nonce;
  bool secret = false;  // the acceptor wants it proven
  std::uint8_t streams = 1;
  std::vector<Offer> offers;
};

// Both proofs cover both sides' messages, and differ by role, so that none can be played back.
std::string encode(const Hello& hello);
std::string encode(const Challenge& challenge);
// Empty: malformed. `version` is what the peer speaks; only an equal one is read further.
std::optional<Hello> decode_hello(std::string_view body, std::uint32_t& version);
std::optional<Challenge> decode_challenge(std::string_view body, std::uint32_t& version);

enum class Role { kConnector, kAcceptor };
Digest prove(Role role, const std::string& secret, const Hello& hello, const Challenge& challenge);
// That a further socket is the connector's: only the two sides know both nonces, and the secret if there is one.
Digest prove_stream(std::uint32_t index, const std::string& secret, const Hello& hello, const Challenge& challenge);

}  // namespace nano::transfer
