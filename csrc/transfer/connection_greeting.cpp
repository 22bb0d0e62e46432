// A connection's handshake, from both sides.
#include <algorithm>

#include "base/error.h"
#include "transfer/connection.h"

namespace nano::transfer {

bool Connection::on_greeting(const Frame& frame, std::string_view body, State state) {
  const bool connector = role_ == Role::kConnector;
  switch (frame.kind) {
    case Kind::kHello:
      return state == State::kGreeting && !connector && on_hello(body);
    case Kind::kAttach:
      return state == State::kGreeting && !connector && !local_ && on_attach(frame, body);
    case Kind::kChallenge:
      return state == State::kGreeting && connector && on_challenge(body);
    case Kind::kProof:
      return state == State::kProving && !connector && on_proof(body);
    case Kind::kReady:
      return state == State::kProving && connector && on_ready(frame);
    case Kind::kRefuse:
      return state < State::kSyncing && connector && on_refusal(body);
    default:
      return false;
  }
}

bool Connection::refuse_greeting(Code code, const std::string& reason) {
  Frame frame;
  frame.kind = Kind::kRefuse;
  BodyWriter body;
  body.put(static_cast<std::uint32_t>(code)).text(reason);
  {
    std::lock_guard lock(mutex_);
    queue_locked(frame, body.bytes());
    flush_locked(kMaxGreeting);
  }
  sever(code, reason, false);
  return true;
}

bool Connection::on_refusal(std::string_view body) {
  BodyReader in(body);
  const auto code = in.get<std::uint32_t>();
  const std::string reason = in.text();
  if (!in.ok()) return false;
  sever(code <= static_cast<std::uint32_t>(Code::kInternal) ? static_cast<Code>(code) : Code::kRefused, reason, false);
  return true;
}

bool Connection::on_hello(std::string_view body) {
  std::uint32_t version = 0;
  const auto hello = decode_hello(body, version);
  if (version != kProtocolVersion) {
    return refuse_greeting(Code::kRefused, cat("protocol version ", version, ", expected ", kProtocolVersion));
  }
  if (!hello) return false;
  hello_ = *hello;
  {
    std::lock_guard lock(mutex_);
    peer_name_ = hello_.name;
    state_ = State::kProving;
  }
  const std::string& secret = core_->config.secret;
  // Another user of this host is a stranger, unless it proves that it knows the secret.
  if (local_ && secret.empty() && !same_user(streams_.main().socket)) {
    return refuse_greeting(Code::kRefused, "another user's process, and there is no secret");
  }
  if (!secret.empty() && !hello_.secret) return refuse_greeting(Code::kRefused, "a secret is required");
  challenge_.name = core_->config.name;
  challenge_.nonce = random_bytes(32);
  challenge_.secret = !secret.empty();
  challenge_.streams = wanted_streams();
  challenge_.offers = make_offers();
  {
    std::lock_guard lock(mutex_);
    agreed_ = std::min(hello_.streams, challenge_.streams);
  }
  const Digest proof = prove(Role::kAcceptor, secret, hello_, challenge_);
  BodyWriter out;
  out.text(encode(challenge_)).put(proof);
  Frame frame;
  frame.kind = Kind::kChallenge;
  queue(frame, out.bytes());
  return true;
}

bool Connection::on_challenge(std::string_view body) {
  BodyReader in(body);
  const std::string encoded = in.text();
  const auto proof = in.get<Digest>();
  std::uint32_t version = 0;
  const auto challenge = decode_challenge(encoded, version);
  if (!in.ok() || !challenge) return false;
  challenge_ = *challenge;
  const std::string& secret = core_->config.secret;
  {
    std::lock_guard lock(mutex_);
    peer_name_ = challenge_.name;
    agreed_ = std::min(hello_.streams, challenge_.streams);
    state_ = State::kProving;
  }
  if (!secret.empty() &&
      (!challenge_.secret || !equal_digests(proof, prove(Role::kAcceptor, secret, hello_, challenge_)))) {
    sever(Code::kRefused, "it does not know the secret", false);
    return true;
  }
  Frame frame;
  frame.kind = Kind::kProof;
  BodyWriter out;
  out.put(prove(Role::kConnector, secret, hello_, challenge_));
  queue(frame, out.bytes());
  open_paths(hello_.offers, hello_.offers, challenge_.offers);
  return true;
}

bool Connection::on_proof(std::string_view body) {
  BodyReader in(body);
  const auto proof = in.get<Digest>();
  if (!in.ok()) return false;
  const std::string& secret = core_->config.secret;
  if (!secret.empty() && !equal_digests(proof, prove(Role::kConnector, secret, hello_, challenge_))) {
    return refuse_greeting(Code::kRefused, "wrong secret");
  }
  {
    std::lock_guard lock(mutex_);
    if (state_ == State::kDead) return true;
    state_ = State::kSyncing;
  }
  greeted_.store(true, std::memory_order_release);
  open_paths(hello_.offers, challenge_.offers, hello_.offers);
  announce_all();
  Frame frame;
  frame.kind = Kind::kReady;
  frame.op = id_;
  queue(frame);
  return true;
}

bool Connection::on_ready(const Frame& frame) {
  peer_id_ = frame.op;
  {
    std::lock_guard lock(mutex_);
    if (state_ == State::kDead) return true;
    state_ = State::kSyncing;
  }
  greeted_.store(true, std::memory_order_release);
  announce_all();
  Frame sync;
  sync.kind = Kind::kSync;
  queue(sync);
  return true;
}

}  // namespace nano::transfer
