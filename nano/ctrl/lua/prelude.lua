-- Put in front of every other script. KEYS: entries, leases, state, events of one scope. ARGV[1]: a random token.
-- entries  hash    id ("kind/name") -> record ("incarnation revision lease_ms meta")
-- leases   zset    id by the time, in ms of Redis's clock, at which its lease ends
-- state    hash    token, revision, min_lease, swept, interval
-- events   stream  one event a revision, with the id "revision-0", capped
local ENTRIES, LEASES, STATE, EVENTS = KEYS[1], KEYS[2], KEYS[3], KEYS[4]

local function now()
  local time = redis.call('TIME')
  return time[1] * 1000 + math.floor(time[2] / 1000)
end

-- The epoch names this server process and this data: revisions of two epochs cannot be compared.
local function epoch()
  local token = redis.call('HGET', STATE, 'token')
  if not token then
    token = ARGV[1]
    redis.call('DEL', ENTRIES, LEASES, STATE, EVENTS)
    redis.call('HSET', STATE, 'token', token, 'revision', 0)
  end
  return string.match(redis.call('INFO', 'server'), 'run_id:(%x+)') .. ':' .. token
end

local function revision()
  return tonumber(redis.call('HGET', STATE, 'revision'))
end

local function fields(record)
  local incarnation, _, lease, meta = string.match(record, '^(%d+) (%d+) (%d+) (.*)$')
  return incarnation, tonumber(lease), meta
end

local function emit(at, type, id, record, cap)
  redis.call('XADD', EVENTS, 'MAXLEN', cap, string.format('%d-0', at), 'type', type, 'id', id, 'record', record)
end

-- Stores the entry with a lease that begins now, and tells the watchers.
local function store(type, id, incarnation, lease, meta, cap)
  local at = redis.call('HINCRBY', STATE, 'revision', 1)
  local record = string.format('%s %d %d %s', incarnation, at, lease, meta)
  redis.call('HSET', ENTRIES, id, record)
  redis.call('ZADD', LEASES, now() + lease, id)
  emit(at, type, id, record, cap)
  return at
end

-- Drops the entry and tells the watchers.
local function drop(type, id, cap)
  local record = redis.call('HGET', ENTRIES, id)
  redis.call('ZREM', LEASES, id)
  redis.call('HDEL', ENTRIES, id)
  if redis.call('HLEN', ENTRIES) == 0 then redis.call('HDEL', STATE, 'min_lease') end
  emit(redis.call('HINCRBY', STATE, 'revision', 1), type, id, record, cap)
end
